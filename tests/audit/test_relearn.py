"""Relearning by one protocol: what its file may say, and that every model is trained on alike."""

import json
import shutil

import pytest
import yaml
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, run, write_json
from safetensors.torch import load_file

from safeeraser.audit import relearn as module
from safeeraser.audit.protocol import PAGE, Protocol, read_protocol
from safeeraser.audit.relearn import Data, adapter_after, ended, merged, relearn, relearning_settings
from safeeraser.benchmark.files import Busy, held
from safeeraser.errors import BadInput
from safeeraser.unlearn.job import prepare

DATA = Data(TRAIN, VAL, held_out=1)
FEW = {"rank": 4, "alpha": 8, "items": 2, "steps": [1, 3], "seeds": [1, 2], "gradient_checkpointing": False}


def page(folder, **keys):
    """A file of these keys."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(keys))
    return file


@pytest.fixture
def few(tmp_path):
    """A protocol of three small steps."""
    return read_protocol(page(tmp_path / "protocol", **FEW))


def test_the_page_names_five_attackers():
    protocol = read_protocol()
    assert list(protocol.attackers) == ["decoupled", "retain", "forget", "text", "unrelated"]
    assert [len(protocol.seeds_of(name)) for name in protocol.attackers] == [3, 3, 3, 1, 1]
    assert Protocol.model_validate(protocol.told) == protocol


def test_a_file_says_what_is_to_be_otherwise():
    mini = read_protocol(ROOT / "config" / "relearn_mini.yaml")
    assert mini.told == read_protocol().told | {"rank": 8, "alpha": 32, "lr": 1e-3, "gradient_checkpointing": False}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"rnak": 4}, "no key 'rnak'; did you mean 'rank'?"),
        ({"rank": 0}, "rank: Input should be greater than or equal to 1"),
        ({"lr": float("inf")}, "lr: Input should be a finite number"),
        ({"steps": [4, 2]}, "steps: must rise from each to the next"),
        ({"seeds": []}, "seeds: Tuple should have at least 1 item"),
        ({"attackers": {"a": {"view": "retane", "data": "train"}}}, "a.view: no view 'retane'; did you mean 'retain'?"),
        ({"attackers": {"a": {"view": "refusal", "data": "train"}}}, "a.view: no view 'refusal'"),
        ({"attackers": {"a": {"view": "retain", "dta": "train"}}}, "no key 'attackers.a.dta'; did you mean 'data'?"),
        ({"attackers": {"../a": {"view": "retain", "data": "train"}}}, "attackers.../a"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path, keys, says):
    file = page(tmp_path, **keys)
    with pytest.raises(BadInput) as error:
        read_protocol(file)
    assert str(error.value).startswith(f"{file}: ") and says in str(error.value)


@pytest.mark.parametrize("text", ["a: [1", "- a list", ""])
def test_a_file_that_is_no_page(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(BadInput, match=r"mine\.yaml: (not YAML|holds no keys)"):
        read_protocol(tmp_path / "mine.yaml")


@pytest.fixture(scope="session")
def instructions(tmp_path_factory):
    """The recorded data with a file of instructions beside it."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(TRAIN, folder)
    asked = [{"view": "retain", "question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(5)]
    write_json(folder / "instructions.json", asked)
    return Data(folder / TRAIN.name, VAL, held_out=1, split=["Weapon"])


@pytest.mark.parametrize(
    ("attacker", "file", "records", "pictured"),
    [
        ("decoupled", TRAIN.name, 2, True),
        ("retain", TRAIN.name, 2, True),
        ("forget", VAL.name, 1, True),
        ("text", TRAIN.name, 2, False),
        ("unrelated", "instructions.json", 5, False),
    ],
)
def test_what_an_attacker_trains_on(few, instructions, tmp_path, monkeypatch, attacker, file, records, pictured):
    """Of the benchmark's files, the categories that were unlearned alone."""
    monkeypatch.chdir(RECORDED)  # where the recorded pictures' paths start
    settings = relearning_settings(str(MODEL), tmp_path / "run", few, attacker, 1, instructions, "bfloat16")
    assert settings.dtype == "bfloat16"
    job = prepare(settings)
    (items,) = job.data.items.values()
    assert settings.data_path.name == file and job.data.records == records and job.schedule.steps == 3
    assert {item.picture is not None for item in items} == {pictured}


def test_nothing_depends_on_the_page_that_is_the_users_to_edit(few, tmp_path, monkeypatch):
    """Every key of config/forget_lora.yaml that decides a result is said."""
    asked = {}
    monkeypatch.setattr(module, "from_keys", lambda keys: asked.update(keys))
    monkeypatch.setattr(module, "read_settings", lambda config: config)
    relearning_settings(str(MODEL), tmp_path, few, "retain", 1, DATA)
    free = {"tune_mm_projector", "allow_other_base", "max_bad_items", "num_epochs"}
    free |= {"probe", "save_total_limit", "hub_model_id", "hub_private", "dry_run", "engine"}
    free |= {"gpu_memory", "tables"}
    every = yaml.safe_load((PAGE.parent / "forget_lora.yaml").read_text())
    lora = {f"LoRA.{key}" for key in every.pop("LoRA")}
    assert (every.keys() - {"defaults"} | lora) - asked.keys() == free


@pytest.fixture(scope="session")
def adapters(tmp_path_factory):
    """Adapters of two methods, of another rank and another projector."""
    folder = tmp_path_factory.mktemp("adapters")
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "lr=0.03", "max_train_steps=1")
    ways = {"popd": ("LoRA.r=4",), "gdpd": ("LoRA.r=2", "LoRA.use_dora=true", "projector=frozen", "seed=9")}
    for method, more in ways.items():
        words = (*given, "gradient_accumulation_steps=2", f"forget_loss={method}", f"save_dir={folder / method}", *more)
        done = run("forget", *words)
        assert done.returncode == 0, done.stderr
    return folder


def weights(folder, step):
    return load_file(adapter_after(folder, step) / "adapter_model.safetensors")


@pytest.mark.slow
def test_every_model_is_trained_alike(adapters, tmp_path, monkeypatch):
    """At a rate of next to nothing LoRA's first weights are still there, the seed's, whatever the model was."""
    monkeypatch.chdir(RECORDED)
    still = read_protocol(page(tmp_path, **FEW | {"lr": 1e-20, "steps": [1]}))
    runs, told = {}, {}
    for name in (None, "popd", "gdpd"):
        model = merged(name and adapters / name, str(MODEL), tmp_path / f"merged_{name}")
        for seed in still.seeds_of("retain"):
            folder = tmp_path / "runs" / f"{name}_{seed}"
            relearn(model, folder, still, "retain", seed, DATA)
            runs[name, seed] = weights(folder, 1)
            told[name, seed] = json.loads((folder / "training" / "plan.json").read_text())["steps"]
    for name in ("popd", "gdpd"):
        for seed in (1, 2):
            assert told[name, seed] == told[None, seed]
            first = runs[None, seed]
            assert all((value - first[key]).abs().max() < 1e-19 for key, value in runs[name, seed].items())
    assert told[None, 1] != told[None, 2]
    assert any(not value.equal(runs[None, 2][key]) for key, value in runs[None, 1].items() if "lora_A" in key)


@pytest.mark.slow
def test_a_merged_model_answers_as_its_adapter_and_is_made_once(adapters, tmp_path):
    folder = tmp_path / "audit" / "merged"
    assert merged(adapters / "popd", str(MODEL), folder) == str(folder)
    made = (folder / "run.json").stat().st_mtime_ns
    given = (
        "--eval_file",
        VAL,
        "--limit",
        1,
        "--greedy",
        "--max_new_tokens",
        6,
        "--dtype",
        "float32",
        "--only",
        "forget",
    )
    said = []
    for number, model in enumerate(
        [
            ("--model_path", folder),
            ("--model_path", MODEL, "--checkpoint_path", adapters / "popd"),
            ("--model_path", MODEL),
        ]
    ):
        out = tmp_path / f"{number}.json"
        assert run("ckpt_infer", *model, *given, "--output_file", out).returncode == 0
        said.append(out.read_text())
    assert said[0] == said[1] != said[2]
    merged(adapters / "popd", str(MODEL), folder)
    assert (folder / "run.json").stat().st_mtime_ns == made
    with held(tmp_path / "audit", "other"), pytest.raises(Busy):
        merged(adapters / "popd", str(MODEL), tmp_path / "audit" / "another")


@pytest.mark.slow
@pytest.mark.parametrize("attacker", ["decoupled", "unrelated"])
def test_what_is_kept_is_an_adapter_of_the_language_model_after_each_step(
    few, instructions, tmp_path, monkeypatch, attacker
):
    monkeypatch.chdir(RECORDED)
    folder = tmp_path / "run"
    relearn(str(MODEL), folder, few, attacker, 1, instructions)
    assert ended(folder) and {path.name for path in (folder / "training").glob("checkpoint-*")} == {
        "checkpoint-1",
        "checkpoint-3",
    }
    for step in (1, 3):
        assert {path.name for path in adapter_after(folder, step).iterdir()} == module.KEPT
        assert all(".lora_" in name and "language_model" in name for name in weights(folder, step))
    moved = weights(folder, 3)
    assert any(not value.equal(moved[name]) for name, value in weights(folder, 1).items())
    told = json.loads((folder / "training" / "run.json").read_text())["settings"]
    assert (told["seed"], told["LoRA"]["r"], told["projector"], told["lr_scheduler_type"]) == (
        1,
        4,
        "frozen",
        "constant",
    )
    log = (folder / "training" / "train_log.jsonl").read_text()
    relearn(str(MODEL), folder, few, attacker, 1, instructions)
    assert (folder / "training" / "train_log.jsonl").read_text() == log
    with held(folder, "other"), pytest.raises(Busy):
        relearn(str(MODEL), folder, few, attacker, 1, instructions)


@pytest.mark.slow
def test_a_relearning_that_was_stopped_goes_on_as_if_nothing_had_been(few, tmp_path, monkeypatch):
    monkeypatch.chdir(RECORDED)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    relearn(str(MODEL), whole, few, "retain", 2, DATA)
    save = module.forget.__globals__["UnlearnTrainer"]._save_checkpoint

    def killed(trainer, *given):
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        save(trainer, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module.forget.__globals__["UnlearnTrainer"], "_save_checkpoint", killed)
        relearn(str(MODEL), stopped, few, "retain", 2, DATA)
    assert not ended(stopped) and (adapter_after(stopped, 1) / "optimizer.pt").is_file()
    relearn(str(MODEL), stopped, few, "retain", 2, DATA)
    for step in (1, 3):
        assert all(value.equal(weights(whole, step)[name]) for name, value in weights(stopped, step).items())
    other = read_protocol(page(tmp_path, **FEW | {"lr": 0.5}))
    (stopped / "trained").unlink()
    with pytest.raises(BadInput, match="its run has another lr"):
        relearn(str(MODEL), stopped, other, "retain", 2, DATA)
