"""Which base model a folder holds, whatever its name, and which runs a model or an adapter comes from.

An adapter is a difference to its base model. It also loads on other weights of the same shapes, but is useless there.
So each run writes the fingerprint of its base model into its `run.json`, and commands that put the adapter on a model
compare it with that model's (`check_base`). The `run.json` also lists the runs that the model comes from (`parents`).
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
    extract_commit_hash,
)
from transformers.utils.hub import get_checkpoint_shard_files

from safeeraser.benchmark.adapters import adapter_file, run_of, trained_settings
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput

log = logging.getLogger(__name__)

SAMPLE = 512  # bytes from the middle of each tensor: training changes them, and reading them is fast even for 14 GB
BLOCKS = 1024  # parts of a file that does not record where its tensors are


def fingerprint(model_path: str, *, here: bool = False) -> dict[str, Any]:
    """The identity of a model: `model_path`, the hub's commit as `revision` (None without one), and `weights`.

    `weights` is a SHA-256 over the dtype, the shape and a sample of all tensors. The folder does not matter, nor do the
    tensors' names, which depend on the version of transformers, nor the division into files if they are `.safetensors`.
    `weights` is None if the model has none; loading it then reports the error.

    Args:
        here: look only on this machine; otherwise weights are fetched from the hub, as loading would do.

    Raises:
        BadInput: a file of weights is missing or damaged.
    """
    try:
        files = _weight_files(model_path, here)
        digest = _digest([Path(file) for file in files]) if files else None
    except Exception as error:  # the readers raise many kinds of error for a damaged file
        raise BadInput(f"model_path {model_path}: its weights are damaged or incomplete ({error})") from None
    revision = extract_commit_hash(files[0] if files else None, None)
    return {"model_path": model_path, "revision": revision, "weights": digest}


def _weight_files(model_path: str, here: bool) -> list[str]:
    """The files of weights that loading would read, looked for in transformers' order."""
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        with suppress(OSError):
            file = cached_file(model_path, name, local_files_only=here)
            several = name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)
            return get_checkpoint_shard_files(model_path, file, local_files_only=here)[0] if several else [file]
    return []


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for label, sample in sorted(part for file in files for part in _parts(file)):
        digest.update(label.encode() + sample)
    return digest.hexdigest()


def _parts(file: Path) -> Iterator[tuple[str, bytes]]:
    """Labels and sampled bytes of a file's tensors or, if it is no `.safetensors`, of `BLOCKS` equal parts of it."""
    if file.suffix != ".safetensors":
        content = np.memmap(file, mode="r")
        for number in range(BLOCKS):
            start, end = (len(content) * each // BLOCKS for each in (number, number + 1))
            yield json.dumps([file.name, len(content), start]), _middle(content[start:end])
        return
    try:
        with safe_open(file, "pt") as tensors:  # maps the file: only the bytes that are used are read
            for name in tensors.keys():  # noqa: SIM118
                header, values = tensors.get_slice(name), tensors.get_tensor(name)
                label = json.dumps([header.get_dtype(), header.get_shape()])
                yield label, _middle(values.reshape(-1).view(torch.uint8).numpy())
    except SafetensorError:
        raise ValueError(f"{file.name} is cut off") from None


def _middle(content: np.ndarray) -> bytes:
    start = (len(content) - min(len(content), SAMPLE)) // 2
    return content[start : start + SAMPLE].tobytes()


def base_of_run(folder: Path) -> dict[str, Any]:
    """The fingerprint of the base that the adapter in this folder was trained on; empty if no `run.json` records it."""
    base = run_of(folder).get("base")
    return base if isinstance(base, dict) else {}


def merged_into(model_path: str) -> dict[str, Any] | None:
    """`merge`'s record of the adapter that it merged into the model in this folder; None if there is no record."""
    return run_of(Path(model_path)).get("merged")


def check_base(adapter: Path, base: dict[str, Any], *, allowed: bool, answer: str = "--allow_other_base") -> None:
    """Refuse an adapter or a checkpoint that was trained on weights other than `base`'s, unless `allowed`.

    Args:
        base: the `fingerprint` of the model that the adapter is put on.
        answer: the option that a user gives to allow it.

    Raises:
        BadInput: the weights differ, or the adapter records no base and an adapter was already merged into the model.
    """
    then, allows_it = base_of_run(adapter), f"{answer} allows it"
    if allowed:
        return
    if not then.get("weights"):
        if merged_into(base["model_path"]):
            raise BadInput(f"{adapter}: {base['model_path']} has an adapter merged into it already; {allows_it}")
        _note_unknown(adapter)
    elif base["weights"] not in (None, then["weights"]):
        raise BadInput(f"{adapter}: was trained on {_named(then)}, not on {_named(base)}; {allows_it}")


def _named(base: dict[str, Any]) -> str:
    revision = f"revision {base['revision']}, " if base.get("revision") else ""
    return f"{base.get('model_path')} ({revision}weights {base['weights'][:12]})"


@cache  # logged once, however often an audit checks
def _note_unknown(adapter: Path) -> None:
    log.warning("note: %s does not say which base it was trained on", adapter)


def parents(model_path: str, adapter: Path | None = None) -> list[dict[str, Any]]:
    """The runs that produced a model, and an adapter that training is to start from, oldest first.

    Each entry says `how` the run came in (`merged`, `init_adapter`; `full`: trained without an adapter), its method,
    split and recipe, and the hashes of its adapter and of its base. Unknown values are None.
    """
    folder = Path(model_path)
    record, chain = run_of(folder), run_of(folder).get("parents", [])
    if merged := merged_into(model_path):
        chain = [*chain, _parent("merged", folder, merged.get("adapter_sha256"), merged.get("base"))]
    elif "settings" in record:
        chain = [*chain, _parent("full", folder, None, base_of_run(folder).get("weights"))]
    if adapter:
        digest, base = sha256(adapter_file(adapter)), base_of_run(adapter).get("weights")
        # The adapter's own record of parents takes precedence: it includes its base's parents.
        chain = [*run_of(adapter).get("parents", chain), _parent("init_adapter", adapter, digest, base)]
    return chain


def _parent(how: str, folder: Path, adapter_sha256: str | None, base: str | None) -> dict[str, Any]:
    settings = trained_settings(folder) or {}
    names = {key: settings.get(name, {}).get("name") for key, name in (("method", "forget_loss"), ("recipe", "recipe"))}
    return {"how": how, **names, "split": settings.get("split"), "adapter_sha256": adapter_sha256, "base": base}
