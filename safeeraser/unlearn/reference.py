"""The reference of KL is the untouched model: the model itself with its adapter switched off, which is shown to be so.

Where no adapter is trained but the model itself, it is a second copy.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psutil
import torch
from peft import PeftModel
from torch import Tensor, nn

from safeeraser.errors import BadInput
from safeeraser.model import adapter_parameters

# How far the logits may be off, as a share of their size. bitsandbytes has several kernels for a product and chooses by
# its shape and the card: on one card the same rows give the same logits, by its sources, which no GPU has shown here. A
# parameter that is trained though it is no adapter's moves them by more than their size.
MAY_BE_OFF = {"none": 0.0, "nf4": 0.1}


@torch.no_grad()
def row_logits(model: nn.Module, row: Mapping[str, Tensor]) -> Tensor:
    """The logits of a batch of one row, (1, length, vocabulary)."""
    device = next(model.parameters()).device
    return model(**{key: each.to(device) for key, each in row.items()}, use_cache=False).logits


def check_room(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Raises `BadInput` if `device` has no memory for the untouched model in `dtype` beside `model`."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    if free < (needed := sum(parameter.numel() for parameter in model.parameters()) * dtype.itemsize):
        raise BadInput(
            f"finetune=full: the method compares with the untouched model, of which it needs a second copy; that takes "
            f"{needed / 2**30:.1f} GiB, and {free / 2**30:.1f} are free. LoRA needs none, nor do other methods"
        )


@contextmanager
def untouched(model: nn.Module, second: nn.Module | None) -> Iterator[nn.Module]:
    """The untouched model: the `second` copy if there is one, or else `model` with its adapter switched off."""
    if second is not None:
        yield second
        return
    trained = [parameter.requires_grad for parameter in model.parameters()]
    with model.disable_adapter():
        yield model
    for parameter, before in zip(model.parameters(), trained, strict=True):
        if parameter.requires_grad and not before:  # PEFT would train all that is saved with the adapter
            parameter.requires_grad_(False)


def check_names(model: PeftModel) -> None:
    """Assert that all that is trained is what PEFT switches off."""
    known = adapter_parameters(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in known:
            raise AssertionError(f"{name} would be trained, which is part of the untouched model: KL has no reference")


@torch.no_grad()
def check_reference(model: PeftModel, row: Mapping[str, Tensor], expected: Tensor, quantization: str = "none") -> None:
    """Assert that switching the adapter off gives the untouched model's logits, whatever was trained: exactly, or under
    `quantization` as near as `MAY_BE_OFF` says.

    An adapter just attached changes nothing yet, so every trained parameter, the projector's too, is moved meanwhile.

    Args:
        row: a batch of one row.
        expected: `row_logits` of the model before the adapter was attached.

    Raises:
        AssertionError: some parameter that the adapter trains is part of the reference.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    for parameter in trained:
        parameter.add_(1)
    with untouched(model, None):
        found = row_logits(model, row)
    for parameter, value in zip(trained, kept, strict=True):
        parameter.copy_(value)
    off = ((found - expected).float().norm() / expected.float().norm()).item()
    if not off <= (bound := MAY_BE_OFF[quantization]):  # nor where they are not finite
        raise AssertionError(
            f"with its adapter switched off the model is not the untouched one: its logits are off by {off:.1%} of "
            f"their size, where quantization={quantization} may round by {bound:.0%}; KL has no reference"
        )
