"""Where an adapter's weights are stored, and the record next to them, which says how and from what they were made."""

from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import meant_by, read_object, sha256
from safeeraser.errors import BadInput

RUN_FILE = "run.json"  # in the folder of an adapter, checkpoint or merged model: how and from what it was made
ADAPTER_FILES = ("adapter_model.safetensors", "checkpoint.pt")  # PEFT's name, the release's name


def described_by(predictions: Path) -> Path:
    """The file next to a predictions file that says how and from what the predictions were made."""
    return predictions.with_suffix(".run.json")


def adapter_file(path: str | Path) -> Path:
    """The file with an adapter's weights: the one in a PEFT folder or in a folder of the release, or `path` itself.

    Raises:
        BadInput: there is none.
    """
    path = Path(path)
    files = [path / name for name in ADAPTER_FILES] if path.is_dir() else [path]
    file = next(filter(Path.is_file, files), None)
    if file is None or file.suffix == ".json":
        if (path / "config.json").is_file():
            raise BadInput(f"{path}: holds a model, not an adapter; name it with --model_path (or model_path=)")
        raise BadInput(f"{path}: no adapter there{_what_is_there(path)}")
    return file


def adapter_hash(path: Path | None) -> str | None:
    """The SHA-256 of an adapter's weights, None without an adapter. Raises `BadInput` if there are none at `path`."""
    return sha256(adapter_file(path)) if path else None


def _what_is_there(path: Path) -> str:
    """For an error: what lies at a path without an adapter, and which adapter may have been meant."""
    if path.is_file():
        return f", but a .json file; the adapter is the folder: {path.parent}"
    if not path.is_dir():
        return f", no such file or folder{meant_by(path) or '; name the save_dir of a run'}"
    steps = sorted(path.glob("checkpoint-*"), key=lambda each: each.stat().st_mtime)
    if steps:
        return (
            f": the run did not finish; forget.py in the same words resumes it, and {steps[-1]} is its last checkpoint"
        )
    return " (a PEFT folder, a .safetensors or the release's checkpoint.pt)"


def home(path: str | Path) -> Path:
    """The folder that describes an adapter: for the weights file of a PEFT folder that folder, else `path` itself."""
    path = Path(path)
    beside = path.name == ADAPTER_FILES[0] and path.is_file() and (path.parent / "adapter_config.json").is_file()
    return path.parent if beside else path


def run_of(folder: Path) -> dict[str, Any]:
    """The content of the `run.json` that belongs to a folder or to its adapter; empty if there is none.

    A checkpoint of an earlier version has no `run.json`. The file of its run is read instead.

    Raises:
        BadInput: the file holds no object.
    """
    folder = home(folder)
    inside, run = folder / RUN_FILE, folder.parent / RUN_FILE
    file = run if folder.name.startswith("checkpoint-") and not inside.is_file() else inside
    return read_object(file) if file.is_file() else {}


def trained_settings(folder: Path) -> dict[str, Any] | None:
    """The settings that an adapter, or the one merged into a model, was trained with; None if its folder does not say.

    Raises:
        BadInput: the settings in its `run.json` are not those of a run of forget.py.
    """
    folder = home(folder)
    record = run_of(folder)
    if "settings" not in record:
        return None
    settings = record["settings"]
    method = settings.get("forget_loss") if isinstance(settings, dict) else None
    if not isinstance(method, dict) or "name" not in method or "recipe" not in settings:
        raise BadInput(f"{folder / RUN_FILE}: settings: not those of a run of forget.py")
    return settings
