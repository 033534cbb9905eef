"""A model's picture features, which can replace the pixels in its input, and the memory that computing them takes."""

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

SPARE_LAYERS = 8  # working memory of one layer of a vision tower, counted in layers' hidden states
COLOURS = 3  # values of a pixel
PIXELS = "pixel_"  # prefix of the names of inputs that only the vision tower reads


@dataclass(frozen=True)
class Seen:
    """A picture as a model sees it.

    Attributes:
        inputs: the model's inputs for it, as the preprocessor makes them, without the pixels if there are `features`.
        features: the picture's features as the model's `generate` takes them: a tensor with an entry for each of its
            tiles, or a sequence of tensors. None if the model takes no features as input, or needs others too
            (`deepstack_features`): the picture is then encoded anew for each row.
    """

    inputs: dict[str, Tensor]
    features: Tensor | Sequence[Tensor] | None = None


def picture_bytes(config: Any, inputs: Mapping[str, Tensor], width: int) -> float:
    """The memory in bytes that a model's vision tower takes for a picture: the hidden states of its patches in all
    layers, which some models keep to select from, and the memory of a layer while it computes.

    Args:
        inputs: the preprocessor's inputs for the picture; they may have shapes and no values.
        width: bytes of a number in the model's dtype.
    """
    vision = config.vision_config
    side = vision.patch_size
    area = math.prod(side) if isinstance(side, Sequence) else side**2
    numbers = area * COLOURS * getattr(vision, "temporal_patch_size", 1)
    pixels = sum(value.numel() for value in inputs.values() if value.is_floating_point())
    patches = pixels // numbers + 1  # and one token for the entire picture
    layers = _first(vision, "num_hidden_layers", "depth")
    return patches * _first(vision, "hidden_size", "embed_dim") * (layers + SPARE_LAYERS) * width


def _first(config: Any, *names: str) -> int:
    """The value of the first of `names` that the configuration has: families use different names."""
    return next(getattr(config, name) for name in names if hasattr(config, name))


def look(model: Any, pictures: Mapping[str, Tensor]) -> Any:
    """The projected features of pictures (`Preprocessor.lay_out`); the language model is not run."""
    return model.get_image_features(**pictures, return_dict=True)


def see(vlm: "VLM", inputs: dict[str, Tensor]) -> Seen:
    """A picture as the model sees it, from the preprocessor's `inputs` for it."""
    if "mm_encoder_outputs" not in signature(vlm.bare.forward).parameters:
        return Seen(inputs)
    output = look(vlm.bare, vlm.place(inputs))
    if getattr(output, "deepstack_features", None) is not None:
        return Seen(inputs)
    return Seen({key: value for key, value in inputs.items() if not key.startswith(PIXELS)}, output.pooler_output)


def features_of(seen: Sequence[Seen]) -> dict[str, Any]:
    """The argument of `generate` with the features of pictures, in the rows' order; empty if there are none."""
    features = [each.features for each in seen if each.features is not None]
    if not features:
        return {}
    one_tensor = isinstance(features[0], Tensor)
    together = torch.cat(features) if one_tensor else [tensor for several in features for tensor in several]
    return {"mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=together)}}
