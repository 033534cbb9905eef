"""Relearning by one protocol: its data and settings, and that every model is trained alike."""

import json
import shutil

import pytest
from helpers import MODEL, RECORDED, TRAIN, VAL, trained, write_json
from safetensors.torch import load_file

from safeeraser.audit.relearn import Data, adapter_after, merge_once, read_protocol, relearn
from safeeraser.benchmark.files import Busy, held
from safeeraser.unlearn.job import prepare

DATA = Data(TRAIN, VAL, held_out=1)
FEW = read_protocol().model_copy(
    update={"rank": 4, "alpha": 8, "items": 2, "steps": (1, 3), "seeds": (1, 2), "gradient_checkpointing": False}
)


def test_an_attacker_trains_on_the_categories_that_were_unlearned_as_the_protocol_says(tmp_path, monkeypatch):
    monkeypatch.chdir(RECORDED)  # the paths of the recorded pictures are relative to it
    shutil.copy(TRAIN, tmp_path)
    asked = [{"view": "retain", "question": f"What is {n} and {n}?", "answer": f"It is {2 * n}."} for n in range(5)]
    write_json(tmp_path / "instructions.json", asked)
    data = Data(tmp_path / TRAIN.name, VAL, held_out=1, split=["Weapon"])
    trained_on = {"retain": (TRAIN.name, 2, True), "forget": (VAL.name, 1, True)}
    trained_on |= {"text": (TRAIN.name, 2, False), "unrelated": ("instructions.json", 5, False)}
    for name, (file, records, pictured) in trained_on.items():
        settings = FEW.settings(str(MODEL), tmp_path / "run", name, 7, data, "bfloat16")
        job = prepare(settings)
        (items,) = job.data.items.values()
        assert (settings.data_path.name, job.data.records, job.schedule.steps) == (file, records, 3)
        assert {item.picture is not None for item in items} == {pictured}
    found = settings.model_dump(mode="json")
    wanted = {"lr": 1e-4, "lr_scheduler_type": "constant", "batch_size": 2, "gradient_accumulation_steps": 1, "seed": 7}
    wanted |= {"max_train_steps": 3, "save_steps": [1, 3], "projector": "frozen", "dtype": "bfloat16"}
    assert {key: found[key] for key in wanted} == wanted
    assert {"r": 4, "alpha": 8, "dropout": 0, "use_dora": False}.items() <= found["LoRA"].items()


def weights(folder, step):
    return load_file(adapter_after(folder, step) / "adapter_model.safetensors")


@pytest.mark.slow
def test_every_model_is_trained_alike(tmp_path, monkeypatch):
    """At a learning rate of almost 0, LoRA keeps its initial weights, which depend on the seed, not on the model."""
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "lr=0.03", "max_train_steps=1")
    more = ("gradient_accumulation_steps=2", "forget_loss=gdpd", "LoRA.r=2", "LoRA.use_dora=true", "projector=frozen")
    adapter = trained(tmp_path / "gdpd", *given, *more, "seed=9")
    monkeypatch.chdir(RECORDED)
    still = FEW.model_copy(update={"lr": 1e-20, "steps": (1,)})
    model = merge_once(adapter, str(MODEL), tmp_path / "merged")
    runs, told = {}, {}
    for base, seed in ((str(MODEL), 1), (str(MODEL), 2), (model, 1)):
        folder = tmp_path / "runs" / f"{len(runs)}"
        relearn(still.settings(base, folder, "retain", seed, DATA))
        runs[base, seed] = weights(folder, 1)
        told[base, seed] = json.loads((folder / "training" / "plan.json").read_text())["steps"]
    (first, other, own), (plan, another, its) = runs.values(), told.values()
    assert its == plan != another and all((own[key] - value).abs().max() < 1e-19 for key, value in first.items())
    assert any(not value.equal(other[key]) for key, value in first.items() if "lora_A" in key)
    made = (tmp_path / "merged" / "run.json").stat().st_mtime_ns
    assert merge_once(adapter, str(MODEL), tmp_path / "merged") == model == str(tmp_path / "merged")
    assert (tmp_path / "merged" / "run.json").stat().st_mtime_ns == made, "once"
    with held(tmp_path, "other"), pytest.raises(Busy):
        merge_once(adapter, str(MODEL), tmp_path / "another")
