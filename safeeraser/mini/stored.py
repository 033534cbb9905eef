"""The weights that come with the package, so that everyone starts with the same models, whatever their processor.

`python -m safeeraser.mini.stored dataset/mini` stores the models of a built benchmark in the package. They are stored
in bfloat16, to which a model's weights are rounded at the end of its training. A vision tower that models share is
stored once.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import read_object, write_whole
from safeeraser.errors import BadInput, command
from safeeraser.mini.settings import Settings, read_settings

log = logging.getLogger(__name__)

TOWER = "vision_tower"


class Stored(NamedTuple):
    """A model's weights, by their names in `state_dict`, and the model's entry in the manifest."""

    weights: dict[str, Tensor]
    record: dict[str, Any]


def read_stored(name: str, settings: Settings) -> Stored | None:
    """The model `name` from the package; None if the package lacks it or has it for other settings."""
    path = _file(name, settings.size)
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if metadata["settings_hash"] != settings.hash:
        log.warning("note: the %s of the package was made by other settings; it is trained anew", name)
        return None
    return Stored(load_file(_file(TOWER, settings.size)) | load_file(path), json.loads(metadata["told"]))


def store(folder: Path) -> list[Path]:
    """Store the models of the benchmark in `folder` in the package. Returns the written files.

    Raises:
        BadInput: the benchmark was built with settings other than the current ones.
    """
    manifest = read_object(folder / "manifest.json")
    settings = read_settings(manifest["settings"]["size"], manifest["settings"]["seed"])
    if manifest["settings_hash"] != settings.hash:
        raise BadInput(f"{folder}: built by other settings or an earlier version; build it again")
    models = {name: _weights(folder / name) for name in manifest if (folder / name / "config.json").is_file()}
    tower = {key: value for key, value in next(iter(models.values())).items() if f".{TOWER}." in key}
    written = [_write(TOWER, settings, tower, {})]
    for name, weights in models.items():
        own = {key: value for key, value in weights.items() if key not in tower or not value.equal(tower[key])}
        written.append(_write(name, settings, own, {"told": json.dumps(manifest[name])}))
    return written


def _weights(folder: Path) -> dict[str, Tensor]:
    model = LlavaForConditionalGeneration.from_pretrained(folder)
    return {key: value.bfloat16() for key, value in model.state_dict().items()}


def _write(name: str, settings: Settings, weights: dict[str, Tensor], metadata: dict[str, str]) -> Path:
    path = _file(name, settings.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path, "wb") as file:
        save_file(weights, file.name, metadata={"settings_hash": settings.hash, **metadata})
    return path


def _file(name: str, size: str) -> Path:
    return Path(__file__).with_name("weights") / size / f"{name}.safetensors"


@command
def main() -> None:
    """Read the command line and store the models."""
    parser = Arguments(prog="python -m safeeraser.mini.stored", description=__doc__)
    parser.add_argument("folder", type=Path, help="of a benchmark that was built with --train")
    for path in store(parser.parse_args().folder):
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
