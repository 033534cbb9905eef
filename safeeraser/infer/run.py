"""A whole inference run: from a data file and a model to a predictions file in the release's format."""

import copy
import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from safeeraser import __version__
from safeeraser import model as llava
from safeeraser.benchmark.files import RUN_FILE, described_by, read_json, sha256, write_json
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.errors import BadInput
from safeeraser.infer.engine import Engine, Generation
from safeeraser.infer.partial import Partial
from safeeraser.infer.requests import build_requests

log = logging.getLogger(__name__)


def infer(
    *,
    eval_file: Path,
    model_path: str,
    output_file: Path,
    checkpoint_path: Path | None,
    loss_type: str,
    generation: Generation,
    batch_size: int,
    dtype: str,
    lora_alpha: float,
    overwrite: bool = False,
) -> None:
    """Answer every request of `eval_file` and write `output_file`, with what produced it beside it (`.run.json`).

    Raises:
        BadInput: before anything is generated, for whatever in the arguments or files cannot be used.
    """
    if output_file.resolve() == eval_file.resolve():
        raise BadInput(f"--output_file {output_file}: is the data file itself, which stays as it is")
    data = read_records(eval_file)
    check_method(loss_type, checkpoint_path)
    settings = {
        "eval_file": sha256(eval_file),
        "model_path": model_path,
        "checkpoint": adapter_hash(checkpoint_path),
        "lora_alpha": lora_alpha,
        "dtype": dtype,
        **asdict(generation),
    }
    partial = Partial(output_file, settings)
    if output_file.exists() and not overwrite:
        check_same_run(output_file, settings, partial)
        log.info("done before: %s", output_file)
        return
    requests = build_requests(data)
    left = [request for request in requests if request.key not in partial.done]
    if len(left) < len(requests):
        log.info("going on: %d of %d responses are there", len(requests) - len(left), len(requests))
    engine = Engine(
        load_merged(model_path, checkpoint_path, dtype=dtype, lora_alpha=lora_alpha),
        llava.load_preprocessor(model_path),
        generation,
        batch_size,
    )
    with progress_bar() as bar:
        task = bar.add_task(output_file.name, total=len(requests), completed=len(requests) - len(left))
        for finished in engine.answer(left):
            partial.add((request.key, text) for request, text in finished)
            bar.advance(task, len(finished))
    write_json(described_by(output_file), describe(settings, eval_file, checkpoint_path, loss_type))
    write_json(output_file, predictions(data, {r.key: (r.record, r.place) for r in requests}, partial.done), indent=4)
    partial.remove()
    log.info("done: %s", output_file)


def check_same_run(output_file: Path, settings: dict[str, Any], partial: Partial) -> None:
    """Refuse an output that exists, unless this very command has finished it: then there is nothing left to do."""
    beside = described_by(output_file)
    made_with = read_json(beside).get("settings") if beside.is_file() else None
    if made_with != settings or partial.path.exists():
        raise BadInput(f"--output_file {output_file}: exists; name another, or replace it with --overwrite")


def predictions(
    data: DataFile, places: dict[str, tuple[int, tuple[str | int, ...]]], responses: dict[str, str]
) -> list[dict[str, Any]]:
    """The data file's own list with each response in its place."""
    filled = copy.deepcopy(data.raw)
    for key, (record, (*parents, field)) in places.items():
        target = filled[record]
        for parent in parents:
            target = target[parent]
        target[field] = responses[key]
    return filled


def load_merged(model_path: str, checkpoint_path: Path | None, *, dtype: str, lora_alpha: float):
    """The model with the adapter merged into its weights, on the GPU if there is one."""
    model = llava.load_model(model_path, llava.choose_dtype(dtype), llava.choose_attention("auto"))
    if checkpoint_path:
        model = llava.load_adapted(model, checkpoint_path, alpha=lora_alpha).merge_and_unload()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def training_of(checkpoint_path: Path | None) -> dict[str, Any] | None:
    """Method and recipe that the checkpoint was trained with, where its `run.json` tells."""
    run = checkpoint_path / RUN_FILE if checkpoint_path else None
    if run is None or not run.is_file():
        return None
    settings = read_json(run).get("settings")
    if settings is None:  # a merged model's, whose adapter did not tell
        return None
    return {"method": settings["forget_loss"]["name"], "recipe": settings["recipe"]}


def check_method(loss_type: str, checkpoint_path: Path | None) -> None:
    """Refuse a `loss_type` that contradicts what is known of the checkpoint."""
    if loss_type == "vanilla" and checkpoint_path:
        raise BadInput(f"--loss_type vanilla: the untouched model has no checkpoint, yet {checkpoint_path} was given")
    training = training_of(checkpoint_path)
    if loss_type and training and loss_type.replace("idk", "po") != training["method"]:
        raise BadInput(f"--loss_type {loss_type}: {checkpoint_path} was trained with {training['method']}")


def adapter_hash(checkpoint_path: Path | None) -> str | None:
    """The SHA-256 of the adapter's weights. Raises `BadInput` if there are none."""
    if checkpoint_path is None:
        return None
    return sha256(llava.adapter_file(checkpoint_path))


def describe(settings: dict[str, Any], eval_file: Path, checkpoint_path: Path | None, loss_type: str) -> dict[str, Any]:
    """What the predictions were made with and from."""
    return {
        "settings": settings,
        "eval_file": str(eval_file),
        "checkpoint_path": str(checkpoint_path) if checkpoint_path else None,
        "loss_type": loss_type or None,
        "training": training_of(checkpoint_path),
        "versions": {"safeeraser": __version__}
        | {package: version(package) for package in ("torch", "transformers", "peft")},
    }


def progress_bar() -> Progress:
    """Responses done, their share, and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("responses"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
