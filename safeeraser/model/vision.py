"""Pictures seen once: what a model's vision makes of them, for its `generate` to take in the place of their pixels."""

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from safeeraser.model.vlm import VLM

PIXELS = "pixel_"  # how the names of the inputs begin that only the vision reads


@dataclass(frozen=True)
class Seen:
    """A picture as a model sees it.

    Attributes:
        inputs: what the model is given for it, as the preprocessor makes it, less the pixels where `features` stand
            for them.
        features: what the vision makes of it, as the model's `generate` takes it: a tensor with an entry for each of
            its tiles, or a sequence of tensors. None where a model takes no features from outside, or more than these:
            the picture is then encoded for each row anew.
    """

    inputs: dict[str, Tensor]
    features: Tensor | Sequence[Tensor] | None = None


def see(vlm: "VLM", inputs: dict[str, Tensor]) -> Seen:
    """A picture, by what the preprocessor makes of it, as the model sees it."""
    if "mm_encoder_outputs" not in signature(vlm.bare.forward).parameters:
        return Seen(inputs)
    look = vlm.bare.base_model.get_image_features
    wanted = {key: value for key, value in vlm.place(inputs).items() if key in signature(look).parameters}
    output = look(**wanted, return_dict=True)
    if getattr(output, "deepstack_features", None) is not None:
        return Seen(inputs)
    return Seen({key: value for key, value in inputs.items() if not key.startswith(PIXELS)}, output.pooler_output)


def features_of(seen: Sequence[Seen]) -> dict[str, Any]:
    """What `generate` is given for pictures beside their inputs, in the rows' order."""
    features = [each.features for each in seen if each.features is not None]
    if not features:
        return {}
    one_tensor = isinstance(features[0], Tensor)
    together = torch.cat(features) if one_tensor else [tensor for several in features for tensor in several]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=together)}}
