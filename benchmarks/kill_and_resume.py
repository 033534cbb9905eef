"""Does a killed run end as an undisturbed one? SIGKILL at random moments, the same command again, compare to the bit.

    python benchmarks/kill_and_resume.py                                       # 20 kills, one process
    DS_ACCELERATOR=cpu python benchmarks/kill_and_resume.py --engine cpu_zero2   # two processes

Every third kill waits until a checkpoint is being written. Dropout and probes are on. Compared are the adapter, the
training log and the probes' rows. Exit code 1 if some run ended otherwise.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from safeeraser.arguments import Arguments
from safeeraser.errors import command
from safeeraser.selftest.launch import kill_tree
from safeeraser.unlearn.state import STAGING

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "data" / "conformance"
COMPARED = ("adapter_model.safetensors", "train_log.jsonl", "probe.jsonl")


@dataclass(frozen=True)
class Run:
    """A small unlearning run, to be started again and again."""

    engine: str | None
    steps: int
    method: str

    def start(self, folder: Path) -> subprocess.Popen:
        """Start it, or go on with what is in `folder`."""
        given = [
            f"forget_loss={self.method}",
            f"model_path={RECORDED / 'llava-tiny'}",
            f"data_path={RECORDED / 'dataset' / 'all_train.json'}",
            f"probe.data_path={RECORDED / 'dataset' / 'all_val.json'}",
            f"max_train_steps={self.steps}",
            f"save_dir={folder}",
            "resume_from_checkpoint=auto",
        ]
        given += ["dtype=float32", "lr=0.01", "gradient_accumulation_steps=2", "LoRA.dropout=0.1", "save_steps=2"]
        given += ["probe_every=5", "probe.max_new_tokens=8", "workers=0"]
        launcher = [sys.executable]
        if self.engine:
            file = ROOT / "config" / "accelerate" / f"{self.engine}.yaml"
            launcher += ["-m", "accelerate.commands.launch", "--config_file", str(file)]
        with open(folder.with_suffix(".log"), "a") as log:
            command_line = [*launcher, str(ROOT / "forget.py"), *given]
            return subprocess.Popen(command_line, cwd=RECORDED, stdout=log, stderr=log)

    def finish(self, folder: Path) -> None:
        """Run it to its end."""
        if self.start(folder).wait() != 0:
            raise SystemExit(f"the run in {folder} failed:\n{folder.with_suffix('.log').read_text()[-3000:]}")


def wait_for(process: subprocess.Popen, file: Path) -> None:
    """Wait until there is such a file, or the process has ended."""
    while process.poll() is None and not file.exists():
        time.sleep(0.0005)


def kill(process: subprocess.Popen, folder: Path, moment: float, writing: bool) -> bool:
    """Kill the run `moment` seconds after its training began, or at the next checkpoint; False if it had ended."""
    wait_for(process, folder / "run.json")
    time.sleep(moment)
    if writing:
        wait_for(process, folder / STAGING)
    if process.poll() is not None:
        return False
    kill_tree(process.pid)
    process.wait()
    return True


def left_behind(folder: Path) -> str:
    """What a killed run left."""
    log = folder / "train_log.jsonl"
    rows = log.read_text().count("\n") if log.exists() else 0
    kept = sorted(int(path.name.rpartition("-")[2]) for path in folder.glob("checkpoint-*"))
    writing = ", one half written" if (folder / STAGING).exists() else ""
    return f"{rows} steps, checkpoints {kept or 'none'}{writing}"


@command
def main() -> None:
    """Kill, resume, compare."""
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="how many runs to kill (default: 20)")
    parser.add_argument("--engine", help="a file of config/accelerate/, without .yaml (default: plain python)")
    parser.add_argument("--steps", type=int, default=24, help="optimizer steps of the run (default: 24)")
    parser.add_argument("--forget_loss", default="klpd", help="the method (default: klpd)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    arguments = parser.parse_args()
    run, draw = Run(arguments.engine, arguments.steps, arguments.forget_loss), random.Random(arguments.seed)
    table = Table("kill", "seconds after training began", "left behind", "ends alike")
    alike = 0
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        wait_for(process := run.start(whole), whole / "run.json")
        begun = time.monotonic()
        process.wait()
        length = time.monotonic() - begun
        run.finish(whole)  # complains if it has failed, else passes over it
        for number in range(1, arguments.kills + 1):
            folder, writing = Path(name) / f"killed-{number}", number % 3 == 0
            moment = draw.uniform(0, 0.7 * length)  # the rest is saving, drawing and leaving
            killed = kill(run.start(folder), folder, moment, writing)
            left = left_behind(folder) if killed else "it had ended"
            run.finish(folder)
            differ = [file for file in COMPARED if (whole / file).read_bytes() != (folder / file).read_bytes()]
            alike += not differ
            table.add_row(str(number), f"{moment:.1f}", left, ", ".join(differ) + " differ" if differ else "yes")
            print(f"{number}/{arguments.kills}: {left}", file=sys.stderr, flush=True)
            shutil.rmtree(folder)
    Console().print(table)
    print(f"{alike} of {arguments.kills} ended as the undisturbed run ({arguments.engine or 'one process'})")
    raise SystemExit(int(alike != arguments.kills))


if __name__ == "__main__":
    main()
