"""forget.py, from its command line to the files in `save_dir`. A resumed run ends as an undisturbed one, to the bit."""

import json
import os
import shutil
import signal

import pytest
import torch
from helpers import (
    MODEL,
    ROOT,
    TRAIN,
    fork,
    kill_once,
    read_beside,
    read_lines,
    record,
    run,
    trained,
    write_dataset,
    write_json,
)
from peft import PeftModel
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from safeeraser.benchmark.adapters import run_of
from safeeraser.benchmark.files import held
from safeeraser.unlearn.hooks.loop import Progress
from safeeraser.unlearn.job import prepare, without_effect

from .given import refuses, settings

# Dropout is on, so a resumed run must also restore its random state.
GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "gradient_accumulation_steps=2", "lr=0.01")
FOUR = (*GIVEN, "max_train_steps=4", "save_steps=2", "workers=0")
SHORT = ("forget_loss=ga", "max_train_steps=1", "save_steps=0", "save_model=false")
MORE = (*FOUR, "LoRA.dropout=0.05")  # `refuses` turns dropout off, so this turns it on again
AUTO = "resume_from_checkpoint=auto"
RESUMED = read_beside(__file__, "golden/refused.yaml")["resumed"]


def same(one, two):
    """Whether two runs have the same adapter and the same log, to the bit."""
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, two))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    return read_lines(one / "train_log.jsonl") == read_lines(two / "train_log.jsonl")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run of popd, four optimizer steps of two items."""
    return trained(tmp_path_factory.mktemp("runs") / "whole", *FOUR)


def altered(folder, change):
    """Apply the function `change` to the `run.json` in a folder."""
    told = json.loads((folder / "run.json").read_text())
    change(told)
    write_json(folder / "run.json", told)


@pytest.fixture
def stopped(whole, tmp_path):
    """A run killed while it wrote a checkpoint: it has the checkpoint of step 2, and a log that ends with step 3."""
    folder = shutil.copytree(whole, tmp_path / "stopped")
    (folder / ".checkpoint-being-written").mkdir()
    (folder / "checkpoint-4").rename(folder / ".checkpoint-being-written" / "checkpoint-4")
    for name in ("adapter_model.safetensors", "adapter_config.json", "training.png"):
        (folder / name).unlink()
    altered(folder, lambda told: (told.pop("finished"), told["sittings"][-1].pop("to_step")))
    lines = (folder / "train_log.jsonl").read_text().splitlines(keepends=True)
    (folder / "train_log.jsonl").write_text("".join(lines[:3]))
    return folder


def test_a_run_leaves_an_ordinary_peft_folder(whole):
    names = "README.md adapter_config.json adapter_model.safetensors checkpoint-2 checkpoint-4 plan.json run.json"
    names += " train_log.jsonl training.png training_args.bin"
    assert sorted(path.name for path in whole.iterdir()) == names.split()
    model = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(MODEL), whole)
    stored = load_file(whole / "adapter_model.safetensors")
    found = {n.replace(".default", "").replace(".modules_to_save", ""): p for n, p in model.named_parameters()}
    assert len(stored) == 2 * 7 * 2 + 4 and all(torch.equal(found[name], stored[name]) for name in stored)
    assert all(value.norm() > 0 for name, value in stored.items() if ".lora_B" in name)  # B starts at 0
    projector = model.get_base_model().model.multi_modal_projector.original_module.linear_1.weight
    assert not torch.equal(projector, stored["base_model.model.model.multi_modal_projector.linear_1.weight"])


def test_the_log_the_plan_and_run_json(whole):
    rows = read_lines(whole / "train_log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row.keys() == {"step", "loss", "grad_norm", "learning_rate", "terms", "micro_losses"}
        assert set(row["terms"]) == {"preference", "decoupled"} and row["grad_norm"] > 0
        assert row["loss"] == pytest.approx(sum(row["terms"].values()), rel=1e-6)
        assert row["loss"] == pytest.approx(sum(row["micro_losses"]) / 2, rel=1e-6)
    # round(0.06 * 4) = 0 warm-up steps, then a cosine. Each row has the learning rate that its step used.
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.01, 0.008535534, 0.005, 0.001464466], rel=1e-6)
    kept = json.loads((whole / "plan.json").read_text())
    assert kept["method"] == "popd" and [step["forget"] for step in kept["steps"]] == list(range(8))
    told = json.loads((whole / "run.json").read_text())
    read, data, versions = told.pop("settings"), told.pop("data"), told.pop("versions")
    assert (read["forget_loss"]["name"], read["recipe"]["name"], read["lr"]) == ("popd", "official", 0.01)
    assert (data["records"], data["left_out"], data["skipped"]) == (12, 0, [])
    assert len(data["sha256"]) == len(data["refusals_sha256"]) == 64
    assert versions.keys() == {"torch", "transformers", "peft", "accelerate", "safeeraser", "python"}
    (sitting,) = told.pop("sittings")
    assert told.pop("base")["model_path"] == str(MODEL) and told.pop("finished") >= told.pop("started")
    del told["git_commit"], told["gpu"]
    # 2 layers with 7 linear layers each: four 64 x 64, gate and up 64 -> 128, down 128 -> 64; rank 32.
    lora, projector = 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128)), (32 * 64 + 64) + (64 * 64 + 64)
    assert told == {
        "title": "PO+PD", "parents": [], "optimizer_steps": 4, "warmup_steps": 0, "items_left_out": 0,
        "engine": {"name": "single", "processes": 1, "offload_optimizer": False, "offload_weights": False},
        "trained_parameters": {"LoRA": lora, "projector": projector, "vision_tower": 0},
    }  # fmt: skip
    assert (sitting["from_step"], sitting["to_step"], sitting["stopped"]) == (0, 4, None) and sitting["seconds"] > 0
    assert (sitting["dtype"], sitting["attention"]) == ("float32", "sdpa")
    assert sitting["items_per_second"] == pytest.approx(8 / sitting["seconds"], rel=0.01)
    # Plausible bounds for a process that has loaded torch and runs this tiny model.
    assert 2e8 < sitting["peak_process_bytes"] < 4e9


def test_what_is_said_of_a_run_before_it_starts(tmp_path, caplog):
    """The settings that have no effect, and how much is trained."""
    data = write_dataset(tmp_path, record(0), record(1))
    words = (f"data_path={data}", "forget_loss=ga", "data.views.forget.image=null", "stop.retain_loss=9")
    job = prepare(read := settings(*words, "num_epochs=3", "warmup_ratio=0.5"))
    assert caplog.messages == ["note: stop.retain_loss has no effect, since no term of ga could pass it"]
    caplog.clear()
    prepare(settings(*words[:1], "forget_loss=wga", "stop.forget_loss=0.5"))
    assert caplog.messages == ["note: stop.forget_loss has no effect, since no term of wga could pass it"]
    assert job.summary(read) == "ga (recipe official): 2 records, 24 items, 2 optimizer steps, 1 of them warm-up"
    nothing = "has no effect, since nothing that ga trains on has a picture"
    assert without_effect(read) == [f"note: projector=full {nothing}"] and without_effect(settings()) == []
    family = ROOT / "tests" / "data" / "families" / "qwen3_vl" / "model"
    (note,) = without_effect(settings(f"model_path={family}"))
    assert note.startswith("note: recipe.training_system=human has no effect, since the chat template of qwen3-vl")
    assert without_effect(settings(f"model_path={family}", "recipe=corrected", "projector=frozen")) == []


@pytest.mark.slow
def test_a_resumed_run_ends_as_the_undisturbed_one(whole, stopped):
    """An earlier version began the run: its run.json has no title, and records the family's config file differently."""
    family = run_of(ROOT / "tests" / "data" / "previous" / "popd")["settings"]["model_family"]
    altered(stopped, lambda told: (told.pop("title"), told["settings"].update(model_family=family)))
    trained(stopped, *FOUR, AUTO)
    assert same(whole, stopped) and {path.name for path in stopped.iterdir()} == {path.name for path in whole.iterdir()}
    sittings = json.loads((stopped / "run.json").read_text())["sittings"]
    assert [each["from_step"] for each in sittings] == [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_a_checkpoint_and_says_how_to_resume(whole, tmp_path, monkeypatch, number):
    """No checkpoint was asked for. Resumed, the run ends as the undisturbed one."""
    folder, words = tmp_path / "run", (*FOUR, "save_steps=0", f"save_dir={tmp_path / 'run'}")

    def interrupt(_, args, state, *given, **more):
        if state.global_step == 1:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_log", interrupt)
        done = run("forget", *words)
    says = f"error: interrupted after step 2: with {AUTO} the same command resumes from {folder}/checkpoint-2"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (128 + number, says)
    assert (folder / "checkpoint-2").exists() and not (folder / "adapter_model.safetensors").exists()
    assert "finished" not in run_of(folder) and run_of(folder)["sittings"][0]["interrupted"] == number.name
    trained(folder, *words, AUTO)
    assert same(whole, folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_killed_with_loading_processes_goes_on_without_them(tmp_path, number):
    """The run is killed with its loading processes after the second checkpoint, then resumed with `auto`. The number of
    loading processes does not matter."""
    given = (*GIVEN, "max_train_steps=8", "save_steps=2", "forget_loss=gdpd")
    killed = tmp_path / "killed"
    process = fork("forget", *given, f"save_dir={killed}", "workers=2")
    os.setpgid(process.pid, process.pid)
    kill_once((killed / "checkpoint-4").exists, process, number)
    assert not (killed / "adapter_model.safetensors").exists()
    trained(killed, *given, "workers=0", AUTO)
    assert same(killed, trained(tmp_path / "whole", *given, "workers=0"))


@pytest.mark.parametrize("words", RESUMED)
def test_a_run_resumed_with_another_setting_is_refused(whole, tmp_path, words):
    """This holds for a named and for a found checkpoint. A key that an earlier version lacked has its default value."""
    checkpoint = tmp_path / "run" / "checkpoint-2"
    shutil.copytree(whole, checkpoint.parent, ignore=shutil.ignore_patterns("checkpoint-4"))
    for folder in (checkpoint.parent, checkpoint):
        altered(folder, lambda told: [told["settings"].pop(key) for key in ("trainer", "data", "bad_items")])
    says, words = RESUMED[words], words.format(config=ROOT / "config")
    said = refuses(tmp_path, *MORE, AUTO, *words.split())
    assert f"its run has another {says}" in said and "overwrite_dir=true instead of resume_" in said
    named = (f"resume_from_checkpoint={checkpoint}", f"save_dir={tmp_path / 'new'}", *words.split())
    assert f"belongs to another run, which has another {says}" in refuses(tmp_path, *MORE, *named)


def test_a_checkpoint_of_other_data_or_of_nobody_is_refused(stopped, tmp_path):
    checkpoint = stopped.rename(tmp_path / "run") / "checkpoint-2"
    digest = run_of(checkpoint)["data"]["sha256"]
    altered(checkpoint, lambda told: told["data"].update(sha256="0" * 64))
    says = f"{TRAIN}: not the data that the checkpoint's run had (sha256 differ)"
    assert says in refuses(tmp_path, *MORE, AUTO)
    altered(checkpoint, lambda told: told["data"].update(sha256=digest))
    plan = json.loads((checkpoint.parent / "plan.json").read_text())
    plan["steps"].reverse()
    (checkpoint.parent / "plan.json").write_text(json.dumps(plan))
    assert "plan.json: this version draws other items" in refuses(tmp_path, *MORE, AUTO)
    alone = shutil.move(checkpoint, tmp_path / "alone")
    (alone / "run.json").unlink()
    assert "no run.json in or beside it" in refuses(tmp_path, *MORE, f"resume_from_checkpoint={alone}")
    assert "nowhere: no checkpoint there" in refuses(tmp_path, *MORE, "resume_from_checkpoint=nowhere")


def test_a_finished_run_is_passed_over_and_one_at_work_is_left_alone(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    done = run("forget", *FOUR, f"save_dir={folder}", AUTO, "probe.prompts=2", "save_steps=1")  # no effect on results
    assert done.returncode == 0 and done.stderr.startswith("done before, on 20")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    with held(folder, "run"):
        for more in (AUTO, "overwrite_dir=true", "overwrite_dir=false"):
            assert "another run is at work there" in refuses(tmp_path, *MORE, more)


@pytest.mark.slow
def test_an_earlier_run_is_replaced_only_where_that_is_asked_for_and_the_new_one_can_start(whole, tmp_path):
    folder = shutil.copytree(whole, tmp_path / "run")
    assert "holds a run already (popd)" in refuses(tmp_path, *MORE)
    assert "no adapter there" in refuses(tmp_path, *MORE, "overwrite_dir=true", "init_adapter=nowhere")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    (folder / "link").symlink_to(tmp_path / "data")
    trained(folder, *FOUR, "overwrite_dir=true", *SHORT)
    assert {path.name for path in folder.iterdir()} == {"run.json", "plan.json", "train_log.jsonl", "training.png"}
    assert json.loads((folder / "run.json").read_text())["settings"]["forget_loss"]["name"] == "ga"
    assert (tmp_path / "data" / "mine").exists()  # a symlink is removed, never its target
    # A run that trained nothing may be replaced, unless its folder holds other files.
    (folder / "notes.txt").touch()
    (folder / "train_log.jsonl").unlink()
    assert "holds a run already (ga)" in refuses(tmp_path, *MORE)
    (folder / "notes.txt").unlink()
    (folder / "training.png").unlink()
    trained(folder, *FOUR, *SHORT)
    assert len(json.loads((folder / "run.json").read_text())["sittings"]) == 1
