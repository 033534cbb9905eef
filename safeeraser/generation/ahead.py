"""Pictures prepared before their turn, by processes of their own: a GPU would wait a third of a second for some."""

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
    """Each of the pictures, which `show` opens, as the model sees it; in their order.

    Raises:
        BadInput: one cannot be decoded, or is of a shape that the model does not take.
        RuntimeError: a process has died, or shared memory is full; see `of_worker`. It may come at any moment as long
            as this is iterated.
    """
    loader: DataLoader[Shown] = DataLoader(
        pictures,
        batch_size=None,
        collate_fn=partial(_prepare, preprocessor, show),
        num_workers=workers,
        worker_init_fn=_leave_group,
        generator=torch.Generator(),  # nothing is drawn of anybody else's chance
    )
    gc.collect()  # what an error has left of an earlier loader, whose queues a process forked now would close
    try:
        yield from zip(pictures, loader, strict=True)
    except (ConnectionError, EOFError, FileNotFoundError) as error:  # the process died while it handed a picture over
        raise RuntimeError(f"a DataLoader worker is gone ({type(error).__name__})") from None


def _prepare(preprocessor: Preprocessor, show: Callable[[Any], Image.Image], picture: Hashable) -> Shown:
    shown = preprocessor.show(show(picture))
    share_memory(shown.inputs)
    return shown


def _leave_group(_worker: int) -> None:
    """Out of the process group, to all of which a terminal sends Ctrl-C: the command alone says that it was stopped."""
    os.setpgrp()


def of_worker(error: RuntimeError) -> str | None:
    """What torch says of a process that prepared pictures and could not go on, for lack of memory perhaps, in a line;
    None where it says something else."""
    return str(error).strip().splitlines()[-1] if "DataLoader worker" in str(error) else None
