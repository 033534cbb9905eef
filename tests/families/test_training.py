"""Training by forget.py follows the figures that transformers and PEFT gave for each family, and leaves a PEFT adapter.

Variants run on families with a special trait: other trained parts, and batches with upright and lying pictures.
"""

from statistics import fmean

import pytest
import torch
from helpers import RECORDED, TRAIN, read_lines, trained, write_json
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from unlearn.built import Gradients, built

from safeeraser.benchmark.pictures import picture_size
from safeeraser.model.load import family_of

from .recorded import VARIED, logits, on

pytestmark = pytest.mark.slow

ACCUMULATION = 4


def forget(family, folder, method):
    """Train as in the recording: 16 micro-steps of one item each, by the family's plan. Return the run's folder."""
    recipe = ("recipe=corrected", "recipe.end_of_answer=false", f"forget_loss={method}", "lr_scheduler_type=constant")
    given = (f"model_path={family.path}", f"data_path={TRAIN}", f"plan={family.folder / 'plan.json'}", "warmup_ratio=0")
    lora = (f"init_adapter={family.adapter}", "LoRA.r=4", "LoRA.alpha=16", "LoRA.dropout=0")
    how = (f"gradient_accumulation_steps={ACCUMULATION}", "dtype=float32", "attention=eager", "workers=0")
    return trained(folder, *recipe, *given, *lora, *how)


def assert_follows(family, folder, method):
    """Assert that the run of `method` in `folder` has the recorded figures and names of trained parameters."""
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
    """KL's reference is the same model with the adapter off and the projector's untouched copy in use."""
    folder = forget(family, tmp_path / method, method)
    assert_follows(family, folder, method)
    base = AutoModelForImageTextToText.from_pretrained(family.path, dtype=torch.float32, attn_implementation="eager")
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:3]])
    by_peft, by_us = (
        logits(model, batch) for model in (PeftModel.from_pretrained(base, folder), family.adapted(folder))
    )
    assert torch.allclose(by_peft, by_us, atol=1e-6), "plain PEFT loads it as it was trained"


@pytest.fixture
def gradients(family, tmp_path, monkeypatch):
    """A function that gives each trained parameter's gradient in one optimizer step of a run. None may be missing: DDP
    would wait for it."""
    monkeypatch.chdir(RECORDED)

    def found(**more):
        kept = Gradients()
        built(tmp_path / "run", "gdpd", {"model_path": family.path, "LoRA.r": 4} | more, callbacks=[kept]).train()
        return kept.steps[0]

    return found


def assert_same(one, two, tolerance=1e-5):
    assert one.keys() == two.keys()
    size = max(value.norm() for value in one.values())
    for name, value in one.items():
        assert (value - two[name]).norm() <= tolerance * value.norm() + 1e-7 * size, name


@on(*VARIED)
def test_every_parameter_that_is_trained_has_a_gradient(family, gradients):
    """With the vision tower, parts of all kinds are trained. Recomputed activations give the same gradients."""
    page = family_of(family.path)
    found = gradients(tune_vision_tower=True, gradient_checkpointing=False)
    assert {page.part_of(name) for name in found} == {"LoRA", "projector", "vision_tower"}
    assert_same(found, gradients(tune_vision_tower=True, gradient_checkpointing=True))
    if family.name == "qwen3_vl":  # whose projector lies within the vision tower
        alone = gradients(tune_vision_tower=True, tune_mm_projector=False)
        assert {page.part_of(name) for name in alone} == {"LoRA", "vision_tower"}


@on(*VARIED)
def test_a_batch_of_two_has_the_gradient_of_two_of_one(family, gradients, tmp_path):
    """In all views, one micro-step has an upright and a lying picture."""
    sizes = [picture_size(RECORDED / row["picture"]) for row in family.rows if row["view"] == "forget"]
    upright, lying = (next(n for n, (w, h) in enumerate(sizes) if (w > h) == wide) for wide in (False, True))
    steps = [{"forget": one, "retain": other, "decoupled": one} for one, other in ((upright, lying), (lying, upright))]
    given = {"plan": str(write_json(tmp_path / "plan.json", {"steps": steps})), "attention": "eager"}
    assert_same(*(gradients(**given, batch_size=n, gradient_accumulation_steps=2 // n) for n in (2, 1)))
