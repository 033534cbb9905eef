"""Training families by forget.py follows what transformers and PEFT recorded, and leaves an adapter of PEFT's."""

from statistics import fmean

import pytest
import torch
from helpers import TRAIN, read_lines, trained
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from .recorded import logits

pytestmark = pytest.mark.slow

ACCUMULATION = 4


def forget(family, folder, method):
    """Train as it was recorded: 16 micro-steps of one item each, by the family's own plan; returns the run's folder."""
    recipe = ("recipe=corrected", "recipe.end_of_answer=false", f"forget_loss={method}", "lr_scheduler_type=constant")
    given = (f"model_path={family.path}", f"data_path={TRAIN}", f"plan={family.folder / 'plan.json'}", "warmup_ratio=0")
    lora = (f"init_adapter={family.adapter}", "LoRA.r=4", "LoRA.alpha=16", "LoRA.dropout=0")
    how = (f"gradient_accumulation_steps={ACCUMULATION}", "dtype=float32", "attention=eager", "workers=0")
    return trained(folder, *recipe, *given, *lora, *how)


def assert_follows(family, folder, method):
    """`folder` holds a run of `method` whose figures, and the names of what it trained, are the recorded ones."""
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
    found, final = {name: value.double().norm().item() for name, value in saved.items()}, {}
    for name, norm in expected["final_norms"].items():  # by the names that PEFT writes to a file
        final[name.replace(".modules_to_save.default.", ".").replace(".default.", ".")] = norm
    assert found.keys() == final.keys()
    assert found == pytest.approx(final, rel=1e-5, abs=0)


@pytest.mark.parametrize("method", ["popd", "klpd"])
def test_losses_gradients_and_norms(family, tmp_path, method):
    """KL's reference is the same model with the adapter off, and with the projector's untouched copy."""
    folder = forget(family, tmp_path / method, method)
    assert_follows(family, folder, method)
    base = AutoModelForImageTextToText.from_pretrained(family.path, dtype=torch.float32, attn_implementation="eager")
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:3]])
    by_peft, by_us = (
        logits(model, batch) for model in (PeftModel.from_pretrained(base, folder), family.adapted(folder))
    )
    assert torch.allclose(by_peft, by_us, atol=1e-6), "plain PEFT loads it as it was trained"
