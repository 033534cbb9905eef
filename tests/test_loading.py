"""Loading a model: straight to where it runs, and without cuDNN's attention unless it was asked for."""

from contextlib import suppress
from unittest.mock import patch

import pytest
import torch
from helpers import MODEL, TRAIN, settings
from transformers import LlavaForConditionalGeneration

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.infer.checkpoint import load_merged
from safeeraser.model import loading
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


@pytest.mark.parametrize(
    ("dtype", "gpu", "flash", "runs"),
    [
        (torch.float32, False, False, "sdpa"),
        (torch.bfloat16, False, False, "eager"),
        (torch.bfloat16, True, False, "sdpa"),
        (torch.bfloat16, True, True, "flash_attention_2"),
        (torch.float32, True, True, "sdpa"),
    ],
)
def test_auto_is_the_fastest_attention_to_train_with(monkeypatch, dtype, gpu, flash, runs):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(loading, "is_flash_attn_2_available", lambda: flash)
    assert models.choose_attention("auto", dtype) == runs


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
    with suppress(BadInput):  # there need not be a GPU: it is said before weights are read
        models.load_model(str(MODEL), torch.float32, attention, device=device)
    assert [message for message in caplog.messages if message.startswith("attention")] == said


def test_weights_go_straight_to_the_device(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the whole model is moved")

    monkeypatch.setattr(torch.nn.Module, "to", refuse)
    model = models.load_model(str(MODEL), torch.float32, device="meta")
    assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"meta"}


def test_what_is_loaded_is_what_transformers_loads(tmp_path):
    """To the bit, buffers too; and with no map of devices on it, for which Trainer would leave it where it is."""
    plain = LlavaForConditionalGeneration.from_pretrained(str(MODEL), dtype=torch.float32)
    loaded = to_be_trained(tmp_path)
    for ours, theirs in (
        (loaded.named_parameters(), plain.named_parameters()),
        (loaded.named_buffers(), plain.named_buffers()),
    ):
        ours, theirs = dict(ours), dict(theirs)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not hasattr(loaded, "hf_device_map")


@pytest.mark.parametrize(
    ("name", "placed"), [("single", True), ("ddp", True), ("zero2", True), ("zero3", False), ("fsdp", False)]
)
def test_an_engine_that_shards_weights_places_them_itself(tmp_path, name, placed):
    """transformers refuses a place for them under ZeRO-3."""
    read = LlavaForConditionalGeneration.from_pretrained
    with patch.object(LlavaForConditionalGeneration, "from_pretrained", side_effect=read) as told:
        to_be_trained(tmp_path, engine=name)
    assert ("device_map" in told.call_args.kwargs) == placed
