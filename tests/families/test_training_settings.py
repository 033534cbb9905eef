"""What else a run may be told, for each family: trained whole, its vision tower too, checkpointed, mixed batches."""

import torch
from helpers import RECORDED, TRAIN, plan_dataset, settings
from transformers import TrainerCallback

from safeeraser import model as models
from safeeraser.unlearn import run
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule

# One family of each kind of vision tower.
ONE_EACH = ("gemma3", "llava_next", "qwen2_5_vl", "smolvlm")


def words(family, *more):
    """What a run of this family is told."""
    given = ("dtype=float32", "LoRA.dropout=0", "workers=0", "gradient_accumulation_steps=2", "max_train_steps=1")
    return (f"model_path={family.path}", f"data_path={TRAIN}", "forget_loss=gd", "LoRA.r=4", *given, *more)


class Gradients(TrainerCallback):
    """Keeps what each trained parameter is given before the optimizer's step: its gradient, or none."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def gradients(folder, family, monkeypatch, *more):
    """Each trained parameter's gradient in one optimizer step, as a run takes it."""
    monkeypatch.chdir(RECORDED)
    read = settings(*words(family, f"save_dir={folder}", "max_grad_norm=0", *more))
    dataset, kept = plan_dataset(read), Gradients()
    arguments = run.training_arguments(read, Engine(), Schedule(1, 0))
    model = run.load_model(read, Engine(), arguments, dataset)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad and read.adapter:  # off the value where LoRA does nothing
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    trainer = run.build_trainer(read, arguments, model, None, dataset)
    trainer.add_callback(kept)
    trainer.train()
    return kept.found


def test_every_parameter_that_is_trained_has_a_gradient(family, tmp_path, monkeypatch):
    """DDP would wait for one that has none. With the vision tower all kinds of parts are trained."""
    found = gradients(tmp_path, family, monkeypatch, "tune_vision_tower=true")
    assert [name for name, gradient in found.items() if gradient is None] == []
    whole = gradients(tmp_path / "whole", family, monkeypatch, "tune_vision_tower=true", "finetune=full")
    assert [name for name, gradient in whole.items() if gradient is None] == []
    tower = models.family_of(family.path).vision_tower
    for trained_here in (found, whole):
        assert any(f".{tower}." in f".{name}" for name in trained_here)
