"""RMU's control vector: drawn from the seed, or read from a file."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput

_NUMBERS = TypeAdapter(Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)])


def control_vector(width: int, seed: int, *, coefficient: float = 20.0, control_vector: Path | None = None) -> Tensor:
    """A vector of `width` in float32: from the unit cube, evenly, and stretched to the length `coefficient`.

    Args:
        control_vector: a JSON file with the vector as it is: a list of numbers, or an object that has one of this name.

    Raises:
        BadInput: the file has none, or one of another width.
    """
    if control_vector is None:
        # On a CPU, so that it is the same whatever trains; said, since a dry run has another device.
        generator = torch.Generator("cpu").manual_seed(seed)
        drawn = torch.rand(width, generator=generator, device="cpu")
        return drawn / drawn.norm() * coefficient
    value = read_json(control_vector)
    try:
        numbers = _NUMBERS.validate_python(value.get("control_vector") if isinstance(value, dict) else value)
    except ValidationError:
        raise BadInput(
            f"{control_vector}: a control vector is a list of numbers, or an object that names one"
        ) from None
    if len(numbers) != width:
        raise BadInput(f"{control_vector}: a vector of {len(numbers)} numbers; the model's states have {width}")
    return torch.tensor(numbers, device="cpu")
