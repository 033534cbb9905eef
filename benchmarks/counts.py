"""What a training step and a decoding step make a GPU wait for, counted on the CPU: prints a table.

  python benchmarks/counts.py [--methods popd klpd] [--json OUT]

A GPU works ahead of the program only as long as nothing is asked of it. Counted for each micro-step (forward and
backward, of an optimizer step's first) and for each token that the decoder draws:

waits   operations whose result the program needs before it goes on: a tensor's value, the places of a mask, whether two
        tensors are equal. They are told apart by who asks: this project, transformers and PEFT, or the backward pass
copies  tensors made of Python's numbers, each a copy to the GPU that the program waits for; and the batch's own tensors
casts   MB written by casts from one dtype to another, in bfloat16 under autocast

What the optimizer and the log wait for once an optimizer step is not in it. The model is that of `memory_estimate.py`.
"""

import os
import sys
import tempfile
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from hydra import compose, initialize_config_dir
from memory_estimate import RECORDED, ROOT, build
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from safeeraser.arguments import one_of
from safeeraser.benchmark.files import write_json
from safeeraser.errors import command
from safeeraser.generation import Asked, Decoder
from safeeraser.generation.sampling import Generation
from safeeraser.model.vlm import VLM
from safeeraser.selftest.training import load_trainer
from safeeraser.unlearn.config.read import read_settings

METHODS = ("popd", "klpd", "gdpd", "po", "gd", "ga")
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten.unique_consecutive, aten._unique2}
INDEXES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
FROM_PYTHON = {torch.tensor, torch.as_tensor}
ASKERS = ("project", "libraries", "backward")


class _Operations(TorchDispatchMode):
    """Counts what reaches the kernels, in the backward pass too."""

    def __init__(self, counts: Counter) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kind, result = function.overloadpacket, function(*args, **kwargs or {})
        if kind in WAITS or (kind in INDEXES and any(_is_mask(index) for index in args[1])):
            self.counts[f"waits, {_asker()}"] += 1
        if kind is aten._to_copy and result.dtype != args[0].dtype:
            self.counts["cast bytes"] += result.nbytes
        return result


class _Calls(TorchFunctionMode):
    """Counts what no kernel sees on a CPU."""

    def __init__(self, counts: Counter) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is Tensor.tolist:
            self.counts[f"waits, {_asker()}"] += 1
        if function in FROM_PYTHON and not isinstance(args[0], Tensor):
            self.counts["copies"] += 1
        return function(*args, **kwargs or {})


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _asker() -> str:
    """Who asked for an operation: the innermost frame that is neither torch's nor this file's."""
    frame = sys._getframe(1)
    while frame:
        file = frame.f_code.co_filename
        if file.endswith("torch/autograd/graph.py"):
            return "backward"
        if f"{os.sep}torch{os.sep}" not in file and file != __file__:
            return "project" if file.startswith(str(ROOT / "safeeraser")) else "libraries"
        frame = frame.f_back
    return "libraries"


def count(work: Any, *args: Any) -> Counter:
    """What happens while `work(*args)` runs."""
    counts = Counter()
    with _Operations(counts), _Calls(counts):
        work(*args)
    return counts


def tensors(batch: Any) -> int:
    """How many tensors a batch holds."""
    if isinstance(batch, Tensor):
        return 1
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else ()
    return sum(map(tensors, values))


def micro_step(method: str, folder: Path) -> Counter:
    """Of a method: the first micro-step of a run on the recorded data, as `forget.py` makes it."""
    given = {"model_path": folder / "model", "save_dir": folder / method, "forget_loss": method, "workers": 0}
    given |= {"data_path": RECORDED / "dataset" / "all_train.json", "dtype": "bfloat16"}
    given |= {"gradient_accumulation_steps": 2, "max_train_steps": 1}
    read = read_settings(compose("forget_lora", [f"{key}={value}" for key, value in given.items()]))
    trainer = load_trainer(read)
    seen, step = [], trainer.training_step

    def counted(model: Any, inputs: dict[str, Any], items: Any) -> Tensor:
        losses = []
        seen.append(count(lambda: losses.append(step(model, inputs, items))))
        seen[-1]["batch"] = tensors(inputs)
        return losses[0]

    with patch.object(trainer, "training_step", counted):
        trainer.train()
    return seen[0]


def decoding_step(rows: int = 4, few: int = 4, many: int = 12) -> dict[str, float]:
    """Of the decoder on the recorded model: between answers of `few` and of `many` tokens, by token."""
    vlm = VLM.load(str(RECORDED / "llava-tiny"), torch.bfloat16)
    vlm.model.eval()
    vlm.ends.clear()  # no answer ends early
    asked = [Asked(None, f"What is {number}?", str(number)) for number in range(rows)]

    def answer(tokens: int) -> Counter:
        decoder = Decoder(vlm, Generation(max_new_tokens=tokens), rows)
        return count(lambda: list(decoder.answer(asked)))

    first, second = answer(few), answer(many)
    return {key: (second[key] - first[key]) / (many - few) for key in second}


def show(counts: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for title in ("waits:", *ASKERS, "copies", "batch", "MB cast"):
        table.add_column(title, justify="right")
    for name, found in counts.items():
        waits = [found.get(f"waits, {asker}", 0) for asker in ASKERS]
        numbers = [sum(waits), *waits, found.get("copies", 0), found.get("batch", 0)]
        table.add_row(name, *(f"{number:g}" for number in numbers), f"{found.get('cast bytes', 0) / 1e6:.1f}")
    Console().print(table)


@command
def main() -> None:
    """Count, print."""
    parser = ArgumentParser(prog="python benchmarks/counts.py", description=__doc__)
    parser.add_argument("--methods", nargs="+", type=one_of("method", METHODS), default=METHODS, help="default: all")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the counts to this file")
    given = parser.parse_args()
    out = given.json and given.json.resolve()
    os.chdir(RECORDED)  # where the recorded pictures' paths start
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        build(Path(folder) / "model")
        counts = {f"a micro-step of {method}": micro_step(method, Path(folder)) for method in given.methods}
    counts["a token of the decoder"] = decoding_step()
    show(counts)
    if out:
        write_json(out, {"model": "118M, bfloat16 under autocast; the decoder's: llava-tiny", "counts": counts})


if __name__ == "__main__":
    main()
