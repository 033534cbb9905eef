"""What a model's vision makes of pictures, to be taken in the place of their pixels, and the memory it takes for it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

if TYPE_CHECKING:
    from safeeraser.model.vlm import VLM

SPARE_LAYERS = 8  # of a vision tower's states: what a layer at work takes, counted in states
COLOURS = 3  # of a pixel
PIXELS = "pixel_"  # how the names of the inputs begin that only the vision reads


@dataclass(frozen=True)
class Seen:
    """A picture as a model sees it.

    Attributes:
        inputs: what the model is given for it, as the preprocessor makes it, less the pixels where `features` are
            for them.
        features: what the vision makes of it, as the model's `generate` takes it: a tensor with an entry for each of
            its tiles, or a sequence of tensors. None where a model takes no features from outside, or more than these:
            the picture is then encoded for each row anew.
    """

    inputs: dict[str, Tensor]
    features: Tensor | Sequence[Tensor] | None = None


def picture_bytes(config: Any, inputs: Mapping[str, Tensor], width: int) -> float:
    """Bytes that a model's vision takes for a picture, by what the preprocessor makes of it (or its shapes alone): the
    states of its patches in all layers, which some models keep to choose from, and what a layer at work takes.

    Args:
        width: bytes of a number in the model's dtype.
    """
    vision = config.vision_config
    side = vision.patch_size
    area = math.prod(side) if isinstance(side, Sequence) else side**2
    numbers = area * COLOURS * getattr(vision, "temporal_patch_size", 1)
    pixels = sum(value.numel() for value in inputs.values() if value.is_floating_point())
    patches = pixels // numbers + 1  # and the one that stands for the whole picture
    layers = _first(vision, "num_hidden_layers", "depth")
    return patches * _first(vision, "hidden_size", "embed_dim") * (layers + SPARE_LAYERS) * width


def _first(config: Any, *names: str) -> int:
    """A number by the first of the names under which families keep it."""
    return next(getattr(config, name) for name in names if hasattr(config, name))


def look(model: Any, pictures: Mapping[str, Tensor]) -> Any:
    """What a model's vision makes of pictures, `Preprocessor.lay_out` of some, and projects, run alone."""
    return model.get_image_features(**pictures, return_dict=True)


def see(vlm: "VLM", inputs: dict[str, Tensor]) -> Seen:
    """A picture, by what the preprocessor makes of it, as the model sees it."""
    if "mm_encoder_outputs" not in signature(vlm.bare.forward).parameters:
        return Seen(inputs)
    output = look(vlm.bare, vlm.place(inputs))
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
