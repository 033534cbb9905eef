"""What else a run may be told, on the families with a trap in it: other parts trained, batches of both shapes, a
projector of sines or LoRA."""

import pytest
import torch
from helpers import RECORDED, TRAIN, plan_dataset, settings, trained, write_json
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText, TrainerCallback

from safeeraser import model as models
from safeeraser.benchmark.pictures import picture_size
from safeeraser.unlearn import run
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule

from .recorded import FOUR, logits, on

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


@on("qwen3_vl")
@pytest.mark.parametrize("how", ["lora", "sine"])
def test_the_projector_otherwise_than_whole(family, how, tmp_path, gradients):
    """What is saved of it loads in plain PEFT, which says what this project does."""
    page = models.family_of(family.path)
    inner = {name: each for name, each in family.model.named_modules() if page.part_of(name) == "projector"}
    whole = {name for name, _ in family.model.named_parameters() if page.part_of(name) == "projector"}
    given = words(family, "lr=0.01", "warmup_ratio=0", "max_train_steps=2", "forget_loss=klpd", f"projector={how}")
    folder = trained(tmp_path / "adapter", *given)
    saved = load_file(folder / "adapter_model.safetensors").items()
    saved = {name.removeprefix("base_model.model."): value for name, value in saved}
    inside = {name: value for name, value in saved.items() if page.part_of(name.replace(".lora_", ".")) == "projector"}
    if how == "lora":
        linear = {name for name, each in inner.items() if isinstance(each, nn.Linear)}
        assert {name.partition(".lora_")[0] for name in inside} == linear and len(inside) == 2 * len(linear)
    else:
        assert inside.keys() == whole
        still = {name for name, value in inside.items() if torch.equal(value, family.model.get_parameter(name))}
        assert still == {name for name in whole if "norm" in name or "ln_q" in name}
        sines = [each for name, each in gradients("projector=sine").items() if name.endswith(".original")]
        assert len(sines) == len(whole) - len(still) and all(each.norm() > 0 for each in sines)
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:3]])
    bare = AutoModelForImageTextToText.from_pretrained(family.path, dtype=torch.float32, attn_implementation="eager")
    said = logits(PeftModel.from_pretrained(bare, folder).eval(), batch)
    assert torch.equal(said, logits(family.adapted(folder), batch))
    assert not torch.allclose(said, logits(family.model, batch), atol=1e-3)
