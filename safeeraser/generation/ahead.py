"""Worker processes that prepare pictures ahead of their turn: a GPU would wait a third of a second for some."""

import gc
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader

from safeeraser.model.preprocess import Preprocessor
from safeeraser.model.turns import Shown
from safeeraser.processes import share_memory


def prepared(
    preprocessor: Preprocessor, show: Callable[[Any], Image.Image], pictures: Sequence[Hashable], workers: int
) -> Iterator[tuple[Hashable, Shown]]:
    """Yield the pictures, which `show` opens, in their order, each with its form for the model (`Shown`).

    Raises:
        BadInput: a picture cannot be decoded, or has a shape that the model does not take.
        RuntimeError: a worker has died, or shared memory is full; see `of_worker`. It may be raised at any iteration.
    """
    loader: DataLoader[Shown] = DataLoader(
        pictures,
        batch_size=None,
        collate_fn=partial(_prepare, preprocessor, show),
        num_workers=workers,
        worker_init_fn=_leave_group,
        generator=torch.Generator(),  # its own, so that torch's global random state does not change
    )
    gc.collect()  # removes an earlier loader that ended in an error: a process forked now would close its queues
    try:
        yield from zip(pictures, loader, strict=True)
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # the process died while it handed a picture over
        raise RuntimeError(f"a DataLoader worker is gone ({type(error).__name__})") from None


def _prepare(preprocessor: Preprocessor, show: Callable[[Any], Image.Image], picture: Hashable) -> Shown:
    shown = preprocessor.show(show(picture))
    share_memory(shown.inputs)
    return shown


def _leave_group(_worker: int) -> None:
    """Leave the process group, which receives a terminal's Ctrl-C: only the command reports that it was stopped."""
    os.setpgrp()


def of_worker(error: RuntimeError) -> str | None:
    """The last line of torch's error, if it reports the failure of a worker that prepared pictures (for lack of memory,
    for example); None for any other error."""
    return str(error).strip().splitlines()[-1] if "DataLoader worker" in str(error) else None
