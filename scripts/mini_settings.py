"""Steps and learning rate of methods on the mini benchmark: each is run once at each rate, and a rule chooses.

python scripts/mini_settings.py [--methods npo npo+pd] [--out results/mini_settings] [--jobs 2]
python scripts/mini_settings.py --model mini-small --methods po popd --rates 5e-4 1e-3 --steps 60 250 --limit 2

A method has as many runs as another, all on the train split: at each of `--rates`, with so many optimizer `--steps`,
without prompt decouple and with it. The rule (`choose`): of the runs that forget, ASR on the pictures trained on at
most FORGOTTEN, the one with the least SARR and the least lost ROUGE-L, both counted alike; where none forgets, the one
with the least ASR. What was measured is kept in docs/results/mini_settings.csv (mini-small:
mini_small_settings.csv), and what the rule chooses is printed as rows of config/mini.yaml. A run that is there is not
made again.
"""

import csv
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

from safeeraser.arguments import Arguments, count
from safeeraser.benchmark.files import read_json, write_whole
from safeeraser.benchmark.methods import PD
from safeeraser.errors import BadInput, command

ROOT = Path(__file__).resolve().parents[1]
PLAIN = ("npo", "simnpo", "dpo", "undial", "wga", "satimp", "ceu", "rmu", "pdu")
METHODS = (*PLAIN, *(f"{name}{PD}" for name in PLAIN))
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
STEPS = (200, 400)  # without prompt decouple, and with it
FORGOTTEN = 0.05


@dataclass(frozen=True)
class Trial:
    """A run: the method's settings, and what came out on the train split, as shares."""

    method: str
    lr: float
    max_train_steps: int
    asr: float
    rr: float
    sarr: float
    rouge_l: float


def kept_in(model: str) -> Path:
    """Where it is kept what was measured."""
    return ROOT / "docs" / "results" / f"{model.replace('-', '_')}_settings.csv"


def choose(trials: Iterable[Trial]) -> Trial:
    """The trial that the rule takes. The lower rate where two come out alike."""
    return min(trials, key=lambda each: (*_loss(each), each.lr))


def _loss(trial: Trial) -> tuple[bool, float]:
    forgot = trial.asr <= FORGOTTEN
    return not forgot, trial.sarr + (1 - trial.rouge_l) if forgot else trial.asr


def words_of(model: str, method: str, lr: float, steps: int, out: Path, limit: int | None) -> tuple[Path, list[str]]:
    """Where the method's figures at this rate go, and the words that have scripts/reproduce.bash make them."""
    folder = out / (f"{lr:g}-{steps}" + (f"-limit{limit}" if limit else ""))
    words = [f"--model={model}", f"--methods={method}", f"--out={folder}", "--jobs=1"]
    words += [
        f"--forget_options=lr={lr} max_train_steps={steps}",
        *([f"--infer_options=--limit={limit}"] if limit else []),
    ]
    return folder / method / "summary_train.json", [*words, "--", f"steps/{method}/score_train.done"]


def make(model: str, method: str, lr: float, steps: int, out: Path, limit: int | None) -> Trial:
    """Unlearn, answer and score, as far as that is not done yet. Raises `BadInput` where a command fails."""
    summary, words = words_of(model, method, lr, steps, out, limit)
    if not summary.is_file():
        call = ["python", "workflow/door.py", *words]
        done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BadInput(f"{' '.join(words)}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    told = read_json(summary)
    trial = Trial(method, lr, steps, *(round(told[key]["value"], 4) for key in ("asr", "rr", "sarr", "rouge_l")))
    print(trial, file=sys.stderr)
    return trial


def read(path: Path) -> list[Trial]:
    """What was kept of earlier calls."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return [
            Trial(**{each.name: each.type(line[each.name]) for each in fields(Trial)})
            for line in csv.DictReader(handle)
        ]


def write(path: Path, trials: Iterable[Trial]) -> None:
    """Keep trials, in the order of their methods and rates."""
    with write_whole(path) as handle:
        lines = csv.writer(handle, lineterminator="\n")
        lines.writerow(each.name for each in fields(Trial))
        for trial in trials:
            lines.writerow(getattr(trial, each.name) for each in fields(Trial))


@command
def main(argv: list[str] | None = None) -> None:
    """Read the command line, make the runs, keep what was measured, and print the choice."""
    parser = Arguments(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini", choices=("mini", "mini-small"), help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help="default: all that were chosen so")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES, help="default: %(default)s")
    parser.add_argument(
        "--steps", nargs=2, type=count, default=STEPS, help="without PD, and with (default: %(default)s)"
    )
    parser.add_argument("--limit", type=count, metavar="N", help="records of each category asked about (default: all)")
    parser.add_argument("--out", type=Path, help="default: results/mini_settings, or results/mini_small_settings")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: %(default)s)")
    given = parser.parse_args(argv)
    kept_file = kept_in(given.model)
    out = (given.out or Path("results", kept_file.stem)).absolute()
    wanted = [(method, rate, given.steps[method.endswith("pd")]) for method in given.methods for rate in given.rates]
    with ThreadPoolExecutor(given.jobs) as pool:
        made = list(pool.map(lambda trial: make(given.model, *trial, out, given.limit), wanted))
    kept = {(trial.method, trial.lr, trial.max_train_steps): trial for trial in [*read(kept_file), *made]}
    write(kept_file, kept.values())
    for method in given.methods:
        chosen = choose(trial for trial in made if trial.method == method)
        print(f"  {method}: {{max_train_steps: {chosen.max_train_steps}, lr: {chosen.lr:.1e}}}")


if __name__ == "__main__":
    main()
