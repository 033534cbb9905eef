"""Shared by the tests of training: settings checked without a command line, and trainers built in this process."""

import shlex

import torch
from helpers import MODEL, TRAIN, plan_dataset
from omegaconf import OmegaConf
from transformers import TrainerCallback, set_seed

from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.trainer_arguments import Schedule, training_arguments
from safeeraser.unlearn.load import load_trained
from safeeraser.unlearn.run import build_trainer

from .given import page

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "gradient_accumulation_steps=2")
ADAPTER = "adapter_model.safetensors"


def checked(method, keys=()):
    """A method's checked settings on the recorded data. `keys`: a dict by dotted names, or words of a command line."""
    composed = page(f"forget_loss={method}", given=(*GIVEN, "LoRA.dropout=0")).copy()
    for key, value in dict(OmegaConf.from_dotlist(shlex.split(keys)) if isinstance(keys, str) else keys).items():
        OmegaConf.update(composed, key, value)
    return read_settings(composed)


class Gradients(TrainerCallback):
    """Keeps each optimizer step's gradients, by parameter name, as they are just before the step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})


def built(folder, method, keys=(), *, steps=1, noise=0.02, callbacks=()):
    """A trainer at the start of a run. Gaussian `noise` is added to its trained weights, so that no gradient is 0."""
    read = checked(method, {"save_dir": str(folder), "max_grad_norm": 0, **dict(keys)})
    dataset, arguments = plan_dataset(read), training_arguments(read, Engine(), Schedule(steps, 0))
    set_seed(read.seed)
    model = load_trained(read, Engine(), arguments)
    generator = torch.Generator().manual_seed(5)
    for parameter in filter(lambda each: each.requires_grad, model.parameters()):
        parameter.data += noise * torch.randn(parameter.shape, generator=generator)
    trainer = build_trainer(read, arguments, model, None, dataset)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer
