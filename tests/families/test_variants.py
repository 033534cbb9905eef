"""What else a run may be told, on the families with a trap in it: other parts trained, and batches of both shapes."""

import pytest
from helpers import RECORDED, write_json
from unlearn.built import Gradients, built

from safeeraser.benchmark.pictures import picture_size
from safeeraser.model.load import family_of

from .recorded import VARIED, on

pytestmark = pytest.mark.slow


@pytest.fixture
def gradients(family, tmp_path, monkeypatch):
    """Gives each trained parameter's gradient in one optimizer step, as a run takes it; none may be missing, for which
    DDP would wait."""
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
    """With the vision tower all kinds of parts are trained; activations made again give the same."""
    page = family_of(family.path)
    found = gradients(tune_vision_tower=True, gradient_checkpointing=False)
    assert {page.part_of(name) for name in found} == {"LoRA", "projector", "vision_tower"}
    assert_same(found, gradients(tune_vision_tower=True, gradient_checkpointing=True))
    if family.name == "qwen3_vl":  # whose projector lies within the vision tower
        alone = gradients(tune_vision_tower=True, tune_mm_projector=False)
        assert {page.part_of(name) for name in alone} == {"LoRA", "vision_tower"}


@on(*VARIED)
def test_a_batch_of_two_has_the_gradient_of_two_of_one(family, gradients, tmp_path):
    """Pictures of both shapes in one micro-step, in all views."""
    sizes = [picture_size(RECORDED / row["picture"]) for row in family.rows if row["view"] == "forget"]
    upright, lying = (next(n for n, (w, h) in enumerate(sizes) if (w > h) == wide) for wide in (False, True))
    steps = [{"forget": one, "retain": other, "decoupled": one} for one, other in ((upright, lying), (lying, upright))]
    given = {"plan": str(write_json(tmp_path / "plan.json", {"steps": steps})), "attention": "eager"}
    assert_same(*(gradients(**given, batch_size=n, gradient_accumulation_steps=2 // n) for n in (2, 1)))
