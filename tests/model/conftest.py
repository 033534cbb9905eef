"""The tiny recorded LLaVA, loaded once; a test that changes it takes a copy."""

import copy
import shutil

import pytest
import torch
from helpers import MODEL, RECORDED
from safetensors.torch import load_file

from safeeraser.benchmark.family import families
from safeeraser.model import lora
from safeeraser.model.load import load_model, load_preprocessor

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FAMILY = families()["llava-1.5"]
RELEASED = load_file(RECORDED / "initial_adapter.safetensors")
# The linear layers in each layer of the language model, by their names within it.
TARGETS = (*(f"self_attn.{name}_proj" for name in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down")))


@pytest.fixture(scope="session")
def loaded():
    return load_model(str(MODEL), torch.float32).eval()


@pytest.fixture
def base(loaded):
    return copy.deepcopy(loaded)


@pytest.fixture(scope="session")
def preprocessor():
    return load_preprocessor(str(MODEL))


@pytest.fixture
def downloaded(tmp_path, monkeypatch):
    """A function that puts a model's folder into the hub's cache, as if downloaded as "someone/model"."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--someone--model"

    def put(folder):
        shutil.copytree(folder, repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)

    return put


def attach(base, family=FAMILY, *, r=32, alpha=256, **more):
    """The model with a fresh adapter, as at the start of training."""
    return lora.attach(base, lora.lora_config(family, r=r, alpha=alpha, **more), family)


def shaken(model):
    """The model, with noise added to its trained parameters."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@torch.no_grad()
def said(model):
    """The logits of a prompt with a picture, which takes 16 tokens of the id 500."""
    ids = torch.tensor([[1, *[500] * 16, 300, 310, 320, 330]])
    pixels = torch.linspace(-1, 1, 3 * 56 * 56).reshape(1, 3, 56, 56)
    return model.eval()(input_ids=ids, pixel_values=pixels).logits
