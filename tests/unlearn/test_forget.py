"""forget.py from its command line to what it leaves in `save_dir`: outputs, loading processes, interruption."""

import json
import shutil
import signal
import time

import pytest
import torch
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, read_lines, record, refused, run, start, trained, write_dataset
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, Trainer

from safeeraser.benchmark.files import run_of
from safeeraser.unlearn.trainer import UnlearnTrainer

pytestmark = pytest.mark.slow

# Dropout is on, so that an interrupted run must find its random state again too.
GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "gradient_accumulation_steps=2", "lr=0.01")
FOUR = (*GIVEN, "max_train_steps=4", "save_steps=2")


def forget(folder, *more):
    return trained(folder, *FOUR, *more)


def same_adapter(one, two):
    one, two = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of popd, four optimizer steps, data loaded in its own process."""
    return forget(tmp_path_factory.mktemp("runs") / "whole", "workers=0")


def test_the_adapter_is_an_ordinary_peft_folder(whole):
    base = LlavaForConditionalGeneration.from_pretrained(MODEL)
    model = PeftModel.from_pretrained(base, whole)
    assert set(model.peft_config["default"].modules_to_save) == {"multi_modal_projector"}
    stored = load_file(whole / "adapter_model.safetensors")
    found = {n.replace(".default", "").replace(".modules_to_save", ""): p for n, p in model.named_parameters()}
    assert len(stored) == 2 * 7 * 2 + 4
    for name, value in stored.items():
        assert torch.equal(found[name], value), name
        # The rate is high: whatever was trained has left its initial value.
        assert not (".lora_B" in name and value.norm() == 0), name
    projector = "base_model.model.model.multi_modal_projector.linear_1.weight"
    untouched = model.get_base_model().model.multi_modal_projector.original_module.linear_1.weight
    assert not torch.equal(untouched, stored[projector])


def test_the_training_log(whole):
    rows = read_lines(whole / "train_log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert set(row["terms"]) == {"preference", "decoupled"} and len(row["micro_losses"]) == 2
        assert row["loss"] == pytest.approx(sum(row["terms"].values()), rel=1e-6)
        assert row["grad_norm"] > 0
    # round(0.06 * 4) = 0 steps of warm-up, then cosine: what step k used.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.008535534, 0.005, 0.001464466], rel=1e-6)


def test_run_json_carries_the_configuration(whole):
    told = json.loads((whole / "run.json").read_text())
    settings = told["settings"]
    assert told["title"] == "PO+PD" and "title" not in settings["forget_loss"]
    assert settings["forget_loss"]["name"] == "popd" and settings["recipe"]["name"] == "official"
    assert (settings["lr"], settings["gradient_accumulation_steps"], settings["seed"]) == (0.01, 2, 233)
    assert told["data"]["records"] == 12 and len(told["data"]["sha256"]) == 64
    assert (told["optimizer_steps"], told["engine"]["name"], told["engine"]["processes"]) == (4, "single", 1)
    # 7 linear layers of 2 layers: 4 of 64x64, gate and up 64 -> 128, down 128 -> 64; rank 32.
    assert told["trained_parameters"] == {
        "LoRA": 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128)),
        "projector": (32 * 64 + 64) + (64 * 64 + 64),
        "vision_tower": 0,
    }
    assert told["finished"] >= told["started"]
    (sitting,) = told["sittings"]
    assert (sitting["from_step"], sitting["to_step"], sitting["stopped"]) == (0, 4, None)
    assert sitting["seconds"] > 0 and sitting["items_per_second"] == pytest.approx(8 / sitting["seconds"], rel=0.01)
    # A process that has torch loaded and runs a model is no smaller, and this one no larger.
    assert 2e8 < sitting["peak_process_bytes"] < 4e9 and sitting["peak_gpu_bytes"] is None
    assert {"torch", "transformers", "peft", "safeeraser", "python"} <= told["versions"].keys()


def test_the_curves_are_a_picture(whole):
    with Image.open(whole / "training.png") as picture:
        assert picture.format == "PNG" and picture.width > 500


def test_the_plan_kept_repeats_the_run(whole, tmp_path):
    kept = json.loads((whole / "plan.json").read_text())
    assert kept["method"] == "popd" and len(kept["steps"]) == 8
    again = forget(tmp_path / "again", "workers=0", f"plan={whole / 'plan.json'}")
    assert same_adapter(whole, again)


def test_loading_processes_change_nothing(whole, tmp_path):
    """The same in a process of its own, as a user starts it, with two processes that load pictures."""
    process = start("forget", *FOUR, f"save_dir={tmp_path / 'two'}", "workers=2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert same_adapter(whole, tmp_path / "two")
    assert read_lines(whole / "train_log.jsonl") == read_lines(tmp_path / "two" / "train_log.jsonl")


def test_another_seed_is_another_run(whole, tmp_path):
    assert not same_adapter(whole, forget(tmp_path / "other", "workers=0", "seed=7"))


@pytest.fixture
def stopped(whole, tmp_path):
    """What a run stopped after step 3 leaves: a checkpoint of step 2, and a log that is ahead of it."""
    folder = tmp_path / "stopped"
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoint-4")
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.png"):
        (folder / name).unlink()
    told = json.loads((folder / "run.json").read_text())
    told["sittings"][-1].pop("to_step")
    (folder / "run.json").write_text(json.dumps({key: told[key] for key in told if key != "finished"}))
    lines = (folder / "train_log.jsonl").read_text().splitlines(keepends=True)
    (folder / "train_log.jsonl").write_text("".join(lines[:3]))
    return folder


def test_a_run_that_ends_before_its_plan_is_not_finished(tmp_path, monkeypatch):
    """Whoever asked it to: only the end of the plan or a bound of its own makes a result."""
    from safeeraser.unlearn.trainer import Progress

    def ask_to_stop(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or state.global_step == 2

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "on_step_end", ask_to_stop)
        folder = forget(tmp_path / "run", "workers=0")
    told = json.loads((folder / "run.json").read_text())
    assert told["sittings"][-1]["to_step"] == 2 and "finished" not in told
    forget(folder, "workers=0", "resume_from_checkpoint=auto")
    assert json.loads((folder / "run.json").read_text())["sittings"][-1]["to_step"] == 4


def test_a_checkpoint_may_have_any_name(whole, tmp_path):
    shutil.copytree(whole / "checkpoint-2", tmp_path / "kept")
    folder = forget(tmp_path / "run", "workers=0", f"resume_from_checkpoint={tmp_path / 'kept'}")
    assert same_adapter(whole, folder)
    assert json.loads((folder / "run.json").read_text())["sittings"][-1]["from_step"] == 2


def test_a_run_whose_data_have_changed_is_not_gone_on_with(stopped):
    """The plan of the same seed would mean other items."""
    told = json.loads((stopped / "checkpoint-2" / "run.json").read_text())
    told["data"]["sha256"] = "0" * 64
    (stopped / "checkpoint-2" / "run.json").write_text(json.dumps(told))
    given = (*FOUR, f"save_dir={stopped}", "workers=0", "resume_from_checkpoint=auto")
    refused(stopped, "forget", *given, says=f"{TRAIN}: not the data that the checkpoint's run had (sha256 differ)")


def test_a_resumed_run_ends_as_the_undisturbed_one(whole, stopped):
    told = json.loads((stopped / "run.json").read_text())
    # What a run that an earlier version began tells otherwise: no title, and of the family's page one projector alone.
    assert told.pop("title") == "PO+PD"
    told["settings"]["model_family"] = run_of(ROOT / "tests" / "data" / "previous" / "popd")["settings"]["model_family"]
    assert told["settings"]["model_family"]["projector"] == "multi_modal_projector"
    (stopped / "run.json").write_text(json.dumps(told))
    forget(stopped, "workers=0", "resume_from_checkpoint=auto")
    assert same_adapter(whole, stopped)
    assert read_lines(whole / "train_log.jsonl") == read_lines(stopped / "train_log.jsonl")


@pytest.mark.parametrize("method", ["npo+pd", "rmu"])
def test_a_method_with_prompt_decouple_or_states_is_probed_and_gone_on_with(tmp_path, method):
    words = (f"forget_loss={method}", *(["forget_loss.terms.forget.layer=0"] if method == "rmu" else []))
    words += ("workers=0", "probe_every=2", f"probe.data_path={VAL}", "probe.prompts=1", "probe.max_new_tokens=4")
    whole = forget(tmp_path / "whole", *words)
    told = json.loads((whole / "run.json").read_text())
    assert told["title"] == method.upper() and told["settings"]["forget_loss"]["name"] == method
    assert [row["step"] for row in read_lines(whole / "probe.jsonl")] == [0, 2, 4]
    half = shutil.copytree(whole, tmp_path / "half")
    (half / "adapter_model.safetensors").unlink()
    shutil.rmtree(half / "checkpoint-4")
    (half / "run.json").write_text(json.dumps({key: value for key, value in told.items() if key != "finished"}))
    forget(half, *words, "resume_from_checkpoint=auto")
    assert same_adapter(whole, half) and json.loads((half / "run.json").read_text())["sittings"][-1]["from_step"] == 2
    for log in ("train_log.jsonl", "probe.jsonl"):
        assert (whole / log).read_bytes() == (half / log).read_bytes()
    other = ("resume_from_checkpoint=auto", "pd=2" if "pd" in method else "forget_loss.terms.forget.coefficient=1")
    refused(half, "forget", *FOUR, f"save_dir={half}", *words, *other, says="its run has another forget_loss.terms.")


def test_a_run_stopped_while_it_writes_a_checkpoint_goes_on_from_the_one_before(whole, tmp_path, monkeypatch):
    """A checkpoint appears whole or not at all; here Ctrl-C falls into the writing of the second."""
    folder, saved = tmp_path / "stopped", []

    def interrupted(self, output_dir):
        saved.append(output_dir)
        if len(saved) == 2:
            raise KeyboardInterrupt
        return Trainer._save_rng_state(self, output_dir)

    with monkeypatch.context() as patched:
        patched.setattr(UnlearnTrainer, "_save_rng_state", interrupted)
        done = run("forget", *FOUR, f"save_dir={folder}", "workers=0")
    assert done.returncode == 130 and "error: interrupted" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    forget(folder, "workers=0", "resume_from_checkpoint=auto")
    assert same_adapter(whole, folder)
    assert read_lines(whole / "train_log.jsonl") == read_lines(folder / "train_log.jsonl")
    # Nothing of the checkpoint that was broken off is left.
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    folder = forget(tmp_path / "run", "workers=0", "save_steps=1", "save_total_limit=2", "save_model=false")
    assert {path.name for path in folder.glob("*checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}


def test_checkpoints_after_the_steps_named(whole, tmp_path):
    folder = forget(tmp_path / "run", "workers=0", "save_steps=[1,2,3]")
    # All of them, though `save_total_limit` is 2.
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    assert same_adapter(whole, folder)
    (folder / "adapter_model.safetensors").unlink()
    told = json.loads((folder / "run.json").read_text())
    del told["finished"]
    (folder / "run.json").write_text(json.dumps(told))
    forget(folder, "workers=0", "save_steps=[1,2,3]", "resume_from_checkpoint=auto")
    assert same_adapter(whole, folder)


def test_steps_past_the_end_of_the_run(tmp_path):
    given = (*FOUR, f"save_dir={tmp_path / 'run'}", "save_steps=[1,9]")
    refused(tmp_path, "forget", *given, says="save_steps=[1, 9]: the run ends after 4 optimizer steps")


def test_a_limit_takes_the_first_records_of_each_category(tmp_path):
    data = write_dataset(tmp_path / "data", *(record(n, "Sex" if n % 2 else "Weapon") for n in range(6)))
    folder = forget(tmp_path / "run", "workers=0", f"data_path={data}", "limit=2", "save_steps=0", "max_train_steps=1")
    assert json.loads((folder / "run.json").read_text())["data"]["records"] == 4


def test_auto_starts_anew_where_no_checkpoint_is(whole, stopped):
    shutil.rmtree(stopped / "checkpoint-2")
    forget(stopped, "workers=0", "resume_from_checkpoint=auto")
    assert same_adapter(whole, stopped)
    assert read_lines(whole / "train_log.jsonl") == read_lines(stopped / "train_log.jsonl")


def test_a_run_that_was_killed_goes_on(tmp_path):
    """SIGKILL somewhere behind the first checkpoint, then the same command with `auto`."""
    given = (*GIVEN, "max_train_steps=12", "save_steps=2", "workers=0", "forget_loss=gdpd")
    killed = tmp_path / "killed"
    process = start("forget", *given, f"save_dir={killed}")
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-4").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "adapter_model.safetensors").exists()
    for folder, more in ((killed, ["resume_from_checkpoint=auto"]), (tmp_path / "whole", [])):
        done = run("forget", *given, f"save_dir={folder}", *more)
        assert done.returncode == 0, done.stderr
    assert same_adapter(killed, tmp_path / "whole")
    assert read_lines(killed / "train_log.jsonl") == read_lines(tmp_path / "whole" / "train_log.jsonl")


def test_overwriting_removes_the_earlier_run(whole, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(whole, folder)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    (folder / "link").symlink_to(tmp_path / "data")
    forget(folder, "workers=0", "overwrite_dir=true", "forget_loss=ga", "save_steps=0")
    assert not (folder / "link").exists() and (tmp_path / "data" / "mine").exists()
    assert json.loads((folder / "run.json").read_text())["settings"]["forget_loss"]["name"] == "ga"
    assert [row["step"] for row in read_lines(folder / "train_log.jsonl")] == [1, 2, 3, 4]
    assert not list(folder.glob("checkpoint-*"))


def test_a_folder_that_only_looks_empty_keeps_what_it_holds(tmp_path):
    """And a link to a folder that is yet to be made stays a link."""
    link, folder = tmp_path / "link", tmp_path / "disk" / "run"
    link.symlink_to(folder)
    few = ("workers=0", "save_steps=0", "max_train_steps=1", "save_model=false")
    forget(link, *few)
    assert link.is_symlink() and (folder / "run.json").is_file()
    (tmp_path / "home" / ".keys").mkdir(parents=True)
    forget(tmp_path / "home", *few, "overwrite_dir=true")
    assert (tmp_path / "home" / ".keys").is_dir()


def test_an_engine_that_accelerate_would_quietly_replace_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    done = run("forget", *FOUR, f"save_dir={tmp_path / 'run'}", "workers=0")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: engine: fsdp was asked for, but accelerate runs")


def test_without_save_model_no_adapter_is_written(tmp_path):
    folder = forget(tmp_path / "none", "workers=0", "save_model=false", "save_steps=0", "max_train_steps=1")
    assert {path.name for path in folder.iterdir()} == {"run.json", "plan.json", "train_log.jsonl", "training.png"}


def test_nothing_is_written_outside_save_dir(tmp_path):
    """Run from a folder of its own: Hydra would like to leave its logs there."""
    data = tmp_path / "work"
    shutil.copytree(RECORDED / "dataset", data / "dataset")
    before = set(tmp_path.rglob("*"))
    done = run("forget", *GIVEN, "data_path=dataset/all_train.json", "max_train_steps=1", "workers=0", cwd=data)
    assert done.returncode == 0, done.stderr
    new = {path.relative_to(data).parts[0] for path in set(tmp_path.rglob("*")) - before}
    assert new == {"results"}


def test_the_config_is_printed_without_a_run(tmp_path):
    script = ["--config-name", "forget_lora.yaml", "--cfg", "job", "--resolve", f"save_dir={tmp_path / 'no'}"]
    process = start("forget", *script)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "gradient_accumulation_steps: 16" in out and not (tmp_path / "no").exists()


def test_a_dry_run_touches_nothing(tmp_path):
    done = run("forget", *FOUR, f"save_dir={tmp_path / 'no'}", "dry_run=true")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "no").exists()
