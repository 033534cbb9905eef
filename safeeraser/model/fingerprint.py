"""Which model a model is, whatever its folder is called.

An adapter is a difference: on other weights of the same shapes it loads as well, and is worth nothing. So each run
writes its base's fingerprint down, and whatever puts an adapter on a model compares (`lineage.check_base`).
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from transformers.utils import (
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    WEIGHTS_INDEX_NAME,
    WEIGHTS_NAME,
    cached_file,
    extract_commit_hash,
)
from transformers.utils.hub import get_checkpoint_shard_files

from safeeraser.errors import BadInput

SAMPLE = 512  # bytes out of the middle of each tensor: training changes them, and of 14 GB they are read in no time
BLOCKS = 1024  # parts of a file that does not say where its tensors are


def fingerprint(model_path: str, *, here: bool = False) -> dict[str, Any]:
    """What distinguishes a model from others: `model_path`, the hub's commit as `revision` (else None), and `weights`.

    `weights` is a SHA-256 over the dtype, the shape and a sample of all tensors. The folder and the division into files
    do not matter, nor do names, since one model's are not the same in every version of transformers. It is None where
    there are no weights, of which loading complains in its own words.

    Args:
        here: look only at what lies on this machine; else weights are fetched from the hub, as loading would.

    Raises:
        BadInput: a file of weights is missing or damaged.
    """
    try:
        files = _weight_files(model_path, here)
        digest = _digest(map(Path, files)) if files else None
    except Exception as error:  # whatever a damaged file makes the readers raise
        raise BadInput(f"model_path {model_path}: its weights are damaged or incomplete ({error})") from None
    revision = extract_commit_hash(files[0] if files else None, None)
    return {"model_path": model_path, "revision": revision, "weights": digest}


def _weight_files(model_path: str, here: bool) -> list[str]:
    """The files that loading would read, as transformers looks for them."""
    for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_NAME, WEIGHTS_INDEX_NAME):
        with suppress(OSError):
            file = cached_file(model_path, name, local_files_only=here)
            several = name in (SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME)
            return get_checkpoint_shard_files(model_path, file, local_files_only=here)[0] if several else [file]
    return []


def _digest(files: Iterator[Path]) -> str:
    found = []
    for file in files:
        with file.open("rb") as handle:
            for label, start, size in _tensors(handle) if file.suffix == ".safetensors" else _blocks(handle):
                length = min(size, SAMPLE)
                sample = os.pread(handle.fileno(), length, start + (size - length) // 2)
                if len(sample) < length:
                    raise ValueError(f"{file.name} is cut off")
                found.append((label, sample))
    digest = hashlib.sha256()
    for label, sample in sorted(found):
        digest.update(label.encode() + sample)
    return digest.hexdigest()


def _tensors(handle: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """Of each tensor in a `.safetensors` dtype and shape, the byte where it begins, and its size."""
    length = int.from_bytes(handle.read(8), "little")
    if length > os.fstat(handle.fileno()).st_size:
        raise ValueError(f"{Path(handle.name).name} is cut off")
    for name, tensor in json.loads(handle.read(length)).items():
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            yield json.dumps([tensor["dtype"], tensor["shape"]]), 8 + length + begin, end - begin


def _blocks(handle: IO[bytes]) -> Iterator[tuple[str, int, int]]:
    """The same of even parts of any other file."""
    size = os.fstat(handle.fileno()).st_size
    for number in range(BLOCKS):
        start, end = size * number // BLOCKS, size * (number + 1) // BLOCKS
        yield json.dumps([Path(handle.name).name, size, start]), start, end - start
