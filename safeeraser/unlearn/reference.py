"""The reference of KL is the model itself with its adapter switched off; here that is shown to be so for a run."""

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor, nn

MODEL_INPUTS = ("input_ids", "attention_mask", "pixel_values")


@torch.no_grad()
def row_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The logits of a batch's first row, (1, length, vocabulary)."""
    device = next(model.parameters()).device
    return model(**{key: batch[key][:1].to(device) for key in MODEL_INPUTS}, use_cache=False).logits


@torch.no_grad()
def check_reference(model: PeftModel, batch: Mapping[str, Tensor], untouched: Tensor) -> None:
    """Assert that switching the adapter off gives exactly the untouched model's logits, whatever was trained.

    An adapter just attached changes nothing yet, so every trained parameter, the projector's too, is moved meanwhile.

    Args:
        untouched: `row_logits` of the model before the adapter was attached.

    Raises:
        AssertionError: some parameter that the adapter trains is part of the reference.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kept = [parameter.detach().clone() for parameter in trained]
    for parameter in trained:
        parameter.add_(1)
    with model.disable_adapter():
        found = row_logits(model, batch)
    for parameter, value in zip(trained, kept, strict=True):
        parameter.copy_(value)
    if not torch.equal(found, untouched):
        raise AssertionError("with its adapter switched off the model is not the untouched one: KL has no reference")
