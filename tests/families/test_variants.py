"""What else a run may be told, on the families with a trap in it: other parts trained, and batches of both shapes."""

import pytest
import torch
from helpers import RECORDED, TRAIN, plan_dataset, settings, write_json
from transformers import TrainerCallback

from safeeraser import model as models
from safeeraser.benchmark.pictures import picture_size
from safeeraser.unlearn import run
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule

from .recorded import FOUR, on

pytestmark = pytest.mark.slow


def words(family, *more):
    """What a run of this family is told."""
    given = ("dtype=float32", "LoRA.dropout=0", "workers=0", "gradient_accumulation_steps=2", "max_train_steps=1")
    return (f"model_path={family.path}", f"data_path={TRAIN}", "forget_loss=gdpd", "LoRA.r=4", *given, *more)


class Gradients(TrainerCallback):
    """Keeps what each trained parameter is given before the optimizer's step: its gradient, or none."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.fixture
def gradients(family, tmp_path, monkeypatch):
    """Gives each trained parameter's gradient in one optimizer step, as a run takes it; none may be missing, for which
    DDP would wait."""
    monkeypatch.chdir(RECORDED)

    def found(*more):
        read = settings(*words(family, f"save_dir={tmp_path / 'run'}", "max_grad_norm=0", *more))
        dataset, kept = plan_dataset(read), Gradients()
        arguments = run.training_arguments(read, Engine(), Schedule(1, 0))
        model = run.load_model(read, Engine(), arguments, dataset)
        generator = torch.Generator().manual_seed(5)
        for parameter in model.parameters():
            if parameter.requires_grad:  # off the value where LoRA does nothing
                parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
        trainer = run.build_trainer(read, arguments, model, None, dataset)
        trainer.add_callback(kept)
        trainer.train()
        assert [name for name, gradient in kept.found.items() if gradient is None] == []
        return kept.found

    return found


def assert_same(one, two, tolerance=1e-5):
    assert one.keys() == two.keys()
    size = max(value.norm() for value in one.values())
    for name, value in one.items():
        assert (value - two[name]).norm() <= tolerance * value.norm() + 1e-7 * size, name


@on(*FOUR)
def test_every_parameter_that_is_trained_has_a_gradient(family, gradients):
    """With the vision tower all kinds of parts are trained; activations made again give the same."""
    page = models.family_of(family.path)
    found = gradients("tune_vision_tower=true", "gradient_checkpointing=false")
    assert {page.part_of(name) for name in found} == {"LoRA", "projector", "vision_tower"}
    assert_same(found, gradients("tune_vision_tower=true", "gradient_checkpointing=true"))
    if family.name == "qwen3_vl":  # whose projector lies within the vision tower
        alone = gradients("tune_vision_tower=true", "tune_mm_projector=false")
        assert {page.part_of(name) for name in alone} == {"LoRA", "vision_tower"}


@on(*FOUR)
def test_a_batch_of_two_has_the_gradient_of_two_of_one(family, gradients, tmp_path):
    """Pictures of both shapes in one micro-step, in all views."""
    sizes = [picture_size(RECORDED / row["picture"]) for row in family.rows if row["view"] == "forget"]
    upright, lying = (next(n for n, (w, h) in enumerate(sizes) if (w > h) == wide) for wide in (False, True))
    steps = [{"forget": one, "retain": other, "decoupled": one} for one, other in ((upright, lying), (lying, upright))]
    given = (f"plan={write_json(tmp_path / 'plan.json', {'steps': steps})}", "attention=eager")
    assert_same(*(gradients(*given, f"batch_size={n}", f"gradient_accumulation_steps={2 // n}") for n in (2, 1)))
