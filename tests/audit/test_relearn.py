"""Relearning by one protocol: what its file may say, what is trained on, every model alike, and resume."""

import json
import shutil

import pytest
import yaml
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, trained, write_json
from safetensors.torch import load_file

from safeeraser.audit.protocol import Protocol, read_protocol
from safeeraser.audit.relearn import Data, adapter_after, ended, merged, relearn, relearning_settings
from safeeraser.benchmark.files import Busy, held
from safeeraser.errors import BadInput
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.trainer import UnlearnTrainer

DATA = Data(TRAIN, VAL, held_out=1)
FEW = {"rank": 4, "alpha": 8, "items": 2, "steps": [1, 3], "seeds": [1, 2], "gradient_checkpointing": False}
FILES = {"adapter_config.json", "adapter_model.safetensors", "run.json"}


def protocol_of(folder, text=None, **keys):
    """The protocol of a file of these keys, or of this text."""
    (folder / "mine.yaml").write_text(yaml.safe_dump(keys) if text is None else text)
    return read_protocol(folder / "mine.yaml")


def attacker(**keys):
    return {"attackers": {"a": {"view": "retain", "data": "train"} | keys}}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"rnak": 4}, "no key 'rnak'; did you mean 'rank'?"),
        ({"rank": 0}, "rank: "),
        ({"lr": float("inf")}, "lr: "),
        ({"dropout": 1.0}, "dropout: "),
        ({"steps": [4, 2]}, "steps: must rise"),
        ({"steps": [2, 2]}, "steps: must rise"),
        ({"seeds": []}, "seeds: "),
        (attacker(view="retane"), "attackers.a.view: no view 'retane'; did you mean 'retain'?"),
        (attacker(view="refusal"), "attackers.a.view: no view 'refusal'"),
        (attacker(dta="train"), "no key 'attackers.a.dta'; did you mean 'data'?"),
        ({"attackers": {"../a": {"view": "retain", "data": "train"}}}, "attackers.../a"),
        ("a: [1", "not YAML"),
        ("- a list", "holds no keys"),
    ],
)
def test_a_protocol_that_cannot_be_used_is_named_by_file_and_key(tmp_path, keys, says):
    with pytest.raises(BadInput) as error:
        protocol_of(tmp_path, keys) if isinstance(keys, str) else protocol_of(tmp_path, **keys)
    assert str(error.value).startswith(f"{tmp_path / 'mine.yaml'}: {says}")


def test_a_file_says_what_is_to_be_otherwise():
    usual, mini = read_protocol(), read_protocol(ROOT / "config" / "relearn_mini.yaml")
    assert mini.told == usual.told | {"rank": 8, "alpha": 32, "lr": 1e-3, "gradient_checkpointing": False}
    assert [len(usual.seeds_of(name)) for name in ("decoupled", "text")] == [3, 1]
    assert Protocol.model_validate(usual.told) == usual


@pytest.fixture(scope="module")
def instructions(tmp_path_factory):
    """The recorded data with a file of instructions beside it."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(TRAIN, folder)
    asked = [{"view": "retain", "question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(5)]
    write_json(folder / "instructions.json", asked)
    return Data(folder / TRAIN.name, VAL, held_out=1, split=["Weapon"])


@pytest.mark.parametrize(
    ("name", "file", "records", "pictured"),
    [
        ("retain", TRAIN.name, 2, True),
        ("forget", VAL.name, 1, True),
        ("text", TRAIN.name, 2, False),
        ("unrelated", "instructions.json", 5, False),
    ],
)
def test_an_attacker_trains_on_the_categories_that_were_unlearned(
    instructions, tmp_path, monkeypatch, name, file, records, pictured
):
    monkeypatch.chdir(RECORDED)  # where the recorded pictures' paths start
    few = protocol_of(tmp_path, **FEW)
    settings = relearning_settings(str(MODEL), tmp_path / "run", few, name, 1, instructions, "bfloat16")
    job = prepare(settings)
    (items,) = job.data.items.values()
    assert (settings.data_path.name, job.data.records, job.schedule.steps) == (file, records, 3)
    assert settings.dtype == "bfloat16" and {item.picture is not None for item in items} == {pictured}


def test_the_protocol_decides_how_it_is_trained_whatever_the_users_config_file_says(tmp_path, monkeypatch):
    monkeypatch.chdir(RECORDED)
    found = relearning_settings(str(MODEL), tmp_path, protocol_of(tmp_path, **FEW), "retain", 7, DATA)
    wanted = {"lr": 1e-4, "lr_scheduler_type": "constant", "batch_size": 2, "gradient_accumulation_steps": 1, "seed": 7}
    wanted |= {"max_train_steps": 3, "save_steps": [1, 3], "projector": "frozen", "push_to_hub": False}
    found = found.model_dump(mode="json")
    lora = {key: found["LoRA"][key] for key in ("r", "alpha", "dropout", "use_dora")}
    assert {key: found[key] for key in wanted} == wanted and lora == {
        "r": 4,
        "alpha": 8,
        "dropout": 0,
        "use_dora": False,
    }


def weights(folder, step):
    return load_file(adapter_after(folder, step) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Adapters of two methods, of another rank and another projector."""
    folder = tmp_path_factory.mktemp("adapters")
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "lr=0.03", "max_train_steps=1")
    ways = {"popd": ("LoRA.r=4",), "gdpd": ("LoRA.r=2", "LoRA.use_dora=true", "projector=frozen", "seed=9")}
    for method, more in ways.items():
        words = (*given, "gradient_accumulation_steps=2", f"forget_loss={method}", *more)
        trained(folder / method, *words)
    return folder


@pytest.mark.slow
def test_every_model_is_trained_alike(adapters, tmp_path, monkeypatch):
    """At a rate of next to nothing LoRA's first weights are still there, the seed's, whatever the model was."""
    monkeypatch.chdir(RECORDED)
    still = protocol_of(tmp_path, **FEW | {"lr": 1e-20, "steps": [1]})
    runs, told = {}, {}
    for name, seed in ((None, 1), (None, 2), ("popd", 1), ("gdpd", 1)):
        model = merged(name and adapters / name, str(MODEL), tmp_path / f"merged_{name}")
        folder = tmp_path / "runs" / f"{name}_{seed}"
        relearn(model, folder, still, "retain", seed, DATA)
        runs[name, seed] = weights(folder, 1)
        told[name, seed] = json.loads((folder / "training" / "plan.json").read_text())["steps"]
    for name in ("popd", "gdpd"):
        assert told[name, 1] == told[None, 1]
        first = runs[None, 1]
        assert all((value - first[key]).abs().max() < 1e-19 for key, value in runs[name, 1].items())
        made = (tmp_path / f"merged_{name}" / "run.json").stat().st_mtime_ns
        assert merged(adapters / name, str(MODEL), tmp_path / f"merged_{name}") == str(tmp_path / f"merged_{name}")
        assert (tmp_path / f"merged_{name}" / "run.json").stat().st_mtime_ns == made, "once"
    with held(tmp_path, "other"), pytest.raises(Busy):
        merged(adapters / "popd", str(MODEL), tmp_path / "another")
    assert told[None, 1] != told[None, 2]
    assert any(not value.equal(runs[None, 2][key]) for key, value in runs[None, 1].items() if "lora_A" in key)


@pytest.mark.slow
def test_stopped_it_goes_on_to_the_bit_and_keeps_an_adapter_for_each_step(tmp_path, monkeypatch):
    monkeypatch.chdir(RECORDED)
    straight, stopped, few = tmp_path / "straight", tmp_path / "stopped", protocol_of(tmp_path, **FEW)
    relearn(str(MODEL), straight, few, "retain", 2, DATA)
    save = UnlearnTrainer._save_checkpoint

    def killed(trainer, *given):
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        save(trainer, *given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UnlearnTrainer, "_save_checkpoint", killed)
        relearn(str(MODEL), stopped, few, "retain", 2, DATA)
    assert not ended(stopped) and (adapter_after(stopped, 1) / "optimizer.pt").is_file()
    relearn(str(MODEL), stopped, few, "retain", 2, DATA)
    for step in (1, 3):
        assert {path.name for path in adapter_after(stopped, step).iterdir()} == FILES
        assert all(value.equal(weights(straight, step)[name]) for name, value in weights(stopped, step).items())
        assert all(".lora_" in name and "language_model" in name for name in weights(stopped, step))
    assert ended(stopped) and any(not v.equal(weights(stopped, 3)[name]) for name, v in weights(stopped, 1).items())
    assert {path.name for path in (stopped / "training").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-3"}
    log = (stopped / "training" / "train_log.jsonl").read_text()
    relearn(str(MODEL), stopped, few, "retain", 2, DATA)
    assert (stopped / "training" / "train_log.jsonl").read_text() == log, "it is through"
    with held(stopped, "other"), pytest.raises(Busy):
        relearn(str(MODEL), stopped, few, "retain", 2, DATA)
    (stopped / "trained").unlink()
    with pytest.raises(BadInput, match="another lr"):
        relearn(str(MODEL), stopped, protocol_of(tmp_path, **FEW | {"lr": 0.5}), "retain", 2, DATA)
