"""Loading a model: without cuDNN's attention unless it was asked for."""

from contextlib import suppress

import pytest
import torch
from helpers import MODEL, TRAIN, settings

from safeeraser import model as llava
from safeeraser.errors import BadInput
from safeeraser.infer.checkpoint import load_merged
from safeeraser.unlearn.arguments import training_arguments
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.run import load_base


@pytest.fixture(autouse=True)
def as_torch_has_it():
    """cuDNN's attention is allowed, as when Python starts; whatever a test makes of that ends with it."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


def to_be_trained(folder, attention="auto", engine="single"):
    read = settings(f"model_path={MODEL}", f"data_path={TRAIN}", f"save_dir={folder}", f"attention={attention}")
    return load_base(read, Engine(engine), training_arguments(read, Engine(), Schedule(1, 0)))


@pytest.mark.parametrize(
    ("attention", "runs", "allowed"),
    [("auto", "sdpa", False), ("sdpa", "sdpa", False), ("eager", "eager", False), ("sdpa_cudnn", "sdpa", True)],
)
def test_training_takes_cudnns_attention_only_when_asked_to(tmp_path, attention, runs, allowed):
    base = to_be_trained(tmp_path, attention)
    assert (base.config._attn_implementation, torch.backends.cuda.cudnn_sdp_enabled()) == (runs, allowed)


def test_a_later_load_settles_it_anew(tmp_path):
    to_be_trained(tmp_path, "sdpa_cudnn")
    load_merged(str(MODEL), None, dtype="float32", lora_alpha=256)
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize(
    ("attention", "device", "said"),
    [
        ("sdpa", "cuda:0", ["attention on the GPU: SDPA, cuDNN's kernels left out"]),
        ("sdpa_cudnn", "cuda:0", ["attention on the GPU: SDPA, cuDNN's kernels among others"]),
        ("eager", "cuda:0", []),
        ("sdpa", "cpu", []),
    ],
)
def test_what_attention_runs_on_a_gpu_is_logged(caplog, attention, device, said):
    caplog.set_level("INFO")
    with suppress(BadInput, AssertionError):  # there need not be a GPU: it is said before weights are read
        llava.load_model(str(MODEL), torch.float32, attention, device=device)
    assert [message for message in caplog.messages if message.startswith("attention")] == said
