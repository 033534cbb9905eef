"""Does a reproduction that is killed end in the same report? SIGKILL at random moments, the same command again.

    python benchmarks/kill_reproduce.py                  # 10 kills of the mini benchmark with shortened settings
    python benchmarks/kill_reproduce.py --whole          # with its own settings: about an hour on two cores

Every other kill takes the command alone, as the kernel does where memory is short, and what it had started goes on;
the others take all that it had started along. The data are those of dataset/mini, built first where they are not there.
Compared are summary.json, table.md and report.html of a disturbed reproduction and an undisturbed one, less the dates.
Exit code 1 if they differ.
"""

import contextlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from safeeraser.arguments import Arguments, count
from safeeraser.errors import command

ROOT = Path(__file__).resolve().parents[1]
COMPARED = ("summary.json", "table.md", "report.html")
SHORT = ("--forget_options=max_train_steps=24 save_steps=6", "--infer_options=--limit 1")
EVERYWHERE = (
    4  # every so many kills come from the very start on, when all is looked at; the others once a step is at work
)


def start(folder: Path, words: list[str]) -> subprocess.Popen:
    """Start the command in `folder`, or go on there."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            ["python", "workflow/door.py", "--model=mini", f"--out={folder / 'results'}", *words],
            **{"cwd": ROOT, "stdout": log, "stderr": log},
        )


def finish(folder: Path, words: list[str]) -> float:
    """Let it run to its end; returns the seconds that took."""
    began = time.monotonic()
    if code := start(folder, words).wait():
        raise SystemExit(f"it ended with exit code {code}:\n{(folder / 'log').read_text()[-3000:]}")
    return time.monotonic() - began


def kill(process: subprocess.Popen, *, tree: bool) -> None:
    """SIGKILL to the command, or to all it has started as well."""
    below = psutil.Process(process.pid).children(recursive=True) if tree else []
    process.kill()
    for each in below:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.wait()


def starts(folder: Path) -> int:
    """How many steps were begun by now."""
    return (folder / "log").read_text().count(" ... (log: ") if (folder / "log").is_file() else 0


def content(file: Path) -> str:
    """A file less its dates and what took how long."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?([+-]\d{4})?", "", file.read_text(encoding="utf-8"))
    return re.sub(r'"(seconds|items_per_second|peak_\w+)": [\d.]+', "", text)


def at_work(folder: Path) -> str:
    """What the marks say of how far it was."""
    return f"{len([*(folder / 'results' / 'steps').glob('*/*.done')])} steps done"


@command
def main() -> None:
    """Reproduce undisturbed, reproduce disturbed, compare."""
    parser = Arguments(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=count, default=10, metavar="N", help="how often to kill (default: 10)")
    parser.add_argument("--methods", default="vanilla popd", help="(default: %(default)s)")
    parser.add_argument("--jobs", type=count, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--whole", action="store_true", help="the mini benchmark's own settings")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    given = parser.parse_args()
    words = [f"--methods={given.methods}", f"--jobs={given.jobs}", *(() if given.whole else SHORT)]
    draw, table = random.Random(given.seed), Table("kill", "seconds after its start", "of what", "left behind")
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        (ROOT / "dataset" / "mini").is_dir() or finish(whole, ["--methods=vanilla", *SHORT])
        shutil.rmtree(whole, ignore_errors=True)
        length = finish(whole, words)
        for number in range(1, given.kills + 1):
            tree, begun = number % 2 == 0, starts(killed)
            process, began = start(killed, words), time.monotonic()
            while number % EVERYWHERE and starts(killed) == begun and process.poll() is None:
                time.sleep(0.1)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0, length / 4))  # so early that work is left for the last
            if process.poll() is not None:
                raise SystemExit(f"it ended before its kill:\n{(killed / 'log').read_text()[-3000:]}")
            kill(process, tree=tree)
            row = (f"{time.monotonic() - began:.0f}", "all" if tree else "the command alone", at_work(killed))
            table.add_row(str(number), *row)
            print(f"{number}/{given.kills}: {', '.join(row)}", file=sys.stderr, flush=True)
        again = finish(killed, words)
        differ = [file for file in COMPARED if content(whole / "results" / file) != content(killed / "results" / file)]
        shown = (killed / "log").read_text()
    Console().print(table)
    print(f"undisturbed in {length:.0f} s, the last sitting of the disturbed one in {again:.0f} s")
    print(f"waited for what a killed one had left at work: {shown.count('waiting: a killed command')} times")
    print(f"differ: {', '.join(differ)}" if differ else "the same summary, table and page")
    raise SystemExit(int(bool(differ)))


if __name__ == "__main__":
    main()
