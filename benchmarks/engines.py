"""How far does each engine end from one process, on the same plan? Prints a table of relative distances.

    python benchmarks/engines.py                                   # each engine on CPUs, in float32 and bfloat16
    python benchmarks/engines.py --engines ddp zero3 --device gpu  # on two GPUs

A few steps of a method on the tiny model of the tests, without dropout. A distance is |a - b| / |b| over LoRA's B,
which begins at zero and is therefore all training, and over the rest of the adapter; b is what one process trains in
the same dtype. Below stands how far one process in bfloat16 is from one in float32, which no engine can help.
"""

import os
import tempfile
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from safeeraser.arguments import Arguments
from safeeraser.errors import command
from safeeraser.selftest.engines import adapter, distance
from safeeraser.selftest.launch import finish, start

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "data" / "conformance"
ALONE = "one_gpu"
ENGINES = ("ddp", "accelerate_config", "zero3", "fsdp2")


def train(folder: Path, engine: str, dtype: str, *, method: str, steps: int, device: str) -> dict[str, Tensor]:
    """The adapter of a run of four items a step, half of them on each of two processes."""
    environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    if device == "cpu":
        stand_in = ROOT / "benchmarks" / "gpu_engines_on_cpus"
        environment |= {"DS_ACCELERATOR": "cpu", "PYTHONPATH": f"{stand_in}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    precision = {"float32": "no", "bfloat16": "bf16"}[dtype]
    words = [f"dtype={dtype}", f"save_dir={folder}", f"forget_loss={method}", f"max_train_steps={steps}"]
    words += [f"model_path={RECORDED / 'llava-tiny'}", f"data_path={RECORDED / 'dataset' / 'all_train.json'}"]
    words += ["LoRA.dropout=0", "workers=0", f"gradient_accumulation_steps={4 if engine == ALONE else 2}"]
    log = folder.with_suffix(".log")
    finish(start(words, log, engine, ["--mixed_precision", precision], env=environment, cwd=RECORDED), log)
    return adapter(folder)


@command
def main() -> None:
    """Train, compare, print."""
    parser = Arguments(prog="python benchmarks/engines.py", description=__doc__)
    parser.add_argument(
        "--engines", nargs="+", default=ENGINES, help="files of config/accelerate/ (default: %(default)s)"
    )
    parser.add_argument("--method", default="klpd", help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: %(default)s")
    given = parser.parse_args()
    how = {"method": given.method, "steps": given.steps, "device": given.device}
    table = Table("engine", box=SIMPLE_HEAD)
    for title in ("float32: B", "rest", "bfloat16: B", "rest"):
        table.add_column(title, justify="right")
    with tempfile.TemporaryDirectory() as place:
        alone = {dtype: train(Path(place) / dtype, ALONE, dtype, **how) for dtype in ("float32", "bfloat16")}
        for engine in given.engines:
            cells = []
            for dtype, reference in alone.items():
                cells += distance(train(Path(place) / f"{engine}-{dtype}", engine, dtype, **how), reference)
            table.add_row(engine, *(f"{cell:.1e}" for cell in cells))
        own = distance(alone["bfloat16"], alone["float32"])
    table.add_row("one process, from float32", "", "", *(f"{cell:.1e}" for cell in own))
    Console().print(table)


if __name__ == "__main__":
    main()
