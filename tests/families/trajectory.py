"""The recorded training by forget.py, and holding its run to the figures."""

from pathlib import Path
from statistics import fmean

import pytest
from helpers import TRAIN, read_lines, trained
from safetensors.torch import load_file

from .recorded import Recorded

ACCUMULATION = 4


def forget(family: Recorded, folder: Path, method: str, *more: str) -> Path:
    """Train as it was recorded: 16 micro-steps of one item each, by the family's own plan; returns the run's folder."""
    recipe = ("recipe=corrected", "recipe.end_of_answer=false", f"forget_loss={method}", "lr_scheduler_type=constant")
    given = (f"model_path={family.path}", f"data_path={TRAIN}", f"plan={family.folder / 'plan.json'}", "warmup_ratio=0")
    lora = (f"init_adapter={family.adapter}", "LoRA.r=4", "LoRA.alpha=16", "LoRA.dropout=0")
    how = (f"gradient_accumulation_steps={ACCUMULATION}", "dtype=float32", "attention=eager", "workers=0")
    return trained(folder, *recipe, *given, *lora, *how, *more)


def saved_name(name: str) -> str:
    """A trained parameter's name as PEFT writes it to a file."""
    return name.replace(".modules_to_save.default.", ".").replace(".default.", ".")


def assert_follows(family: Recorded, folder: Path, method: str) -> None:
    """`folder` holds a run of `method` whose figures are the recorded ones."""
    expected, rows = family.read(f"training/{method}.json"), read_lines(folder / "train_log.jsonl")
    steps = expected["steps"]
    losses = [loss for row in rows for loss in row["micro_losses"]]
    assert len(losses) == len(steps) == 16
    assert losses == pytest.approx([step["loss"] for step in steps], abs=1e-5, rel=0)
    for number, row in enumerate(rows):
        some = steps[ACCUMULATION * number : ACCUMULATION * (number + 1)]
        means = {name: fmean(step["terms"][name] for step in some) for name in some[0]["terms"]}
        assert row["terms"] == pytest.approx(means, abs=1e-5, rel=0)
    norms = [row["grad_norm"] for row in rows]
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-4, abs=0)
    saved = load_file(folder / "adapter_model.safetensors")
    found = {name: value.double().norm().item() for name, value in saved.items()}
    final = {saved_name(name): norm for name, norm in expected["final_norms"].items()}
    assert found.keys() == final.keys()
    assert found == pytest.approx(final, rel=1e-5, abs=0)
