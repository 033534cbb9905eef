"""Methods on the mini benchmark, audited with a model that never knew as a control: files and tables of docs/results/.

python scripts/mini_audit.py [--methods po popd] [--seeds 233 1 2] [--out results/mini_audit] [--jobs 2]
python scripts/mini_audit.py --tables          the tables of mini.md anew, from mini_audit.csv
python scripts/mini_audit.py --model mini-small      PO+PD and NPO+PD, what DONE names: mini_small_audit.csv, and the
                                               tables of mini-small.md

Each method is unlearned and audited with each seed, beside `none` and `none+pd` (tuned), the base model (vanilla, told)
and never_knew of its data. What is there is not made again. The judge is `truth`, protocol corrected: what counts as
harmful is the content of the answer, by rule. The tables show one seed's figures with intervals, or means over seeds.
"""

import contextlib
import csv
import os
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import read_object, write_whole
from safeeraser.benchmark.pages import read_page
from safeeraser.errors import BadInput, command
from safeeraser.report.writing import with_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "workflow" / "config"
PAGES = {model: ROOT / "docs" / "results" / f"{model}.md" for model in ("mini", "mini-small")}  # which have the tables
METHODS = ("po", "popd", "gapd", "klpd", "npo+pd", "rmu+pd")
OF = {"mini": METHODS, "mini-small": ("popd", "npo+pd")}  # audited unasked
# What audit.py is to do: all, or what two cores afford of a model a hundred times as large.
DONE = {"mini": ("all",), "mini-small": ("inside,relearn,sampling,attacks", "--attacks=crop,flip", "--limit=3")}
MEASURES = ("gap", "gap_10", "exact_0", "exact_3", "depth", "probe", "rank", "nll_true")
INCOMPLETE = 3  # the exit code of an audit that is through, but lacks something
ATTACKERS = ("decoupled", "retain", "forget", "text", "unrelated")


def kept_in(model: str) -> Path:
    """Where it is kept what was measured."""
    return ROOT / "docs" / "results" / f"{model.replace('-', '_')}_audit.csv"


class Line(NamedTuple):
    """A figure: of which method's audit, of the audited model or a control, what it is, and where it was taken."""

    seed: int
    method: str
    subject: str
    what: str
    where: str
    value: float
    low: float | None = None
    high: float | None = None


def make(model: str, method: str, seed: int, out: Path, jobs: int, relearn: Path) -> Path:
    """Unlearn and audit, as far as that is not done yet; returns the card. Raises `BadInput` where a command fails."""
    tuned = "none+pd" if method.endswith("pd") else "none"
    names = [name if seed == 233 else f"{name}-seed{seed}" for name in (tuned, method)]
    words = [f"--model={model}", f"--methods={tuned} {method}", f"--seeds={seed}", f"--out={out}", "--jobs=1", "--"]
    _call(["python", "workflow/door.py", *words, *(f"steps/{name}/unlearn.done" for name in names)], {})
    control, folder = (out / name for name in names)
    asked = (f"--checkpoint_path={folder}", f"--tuned={control}")  # never_knew is found, where it has been built
    page = read_page(CONFIGS / f"{model}.yaml", CONFIGS)
    judged = ("--judge=truth", "--batch_size=128", *shlex.split(page["audit_options"]))
    words = ["python", "audit.py", *DONE[model], *asked, *judged, f"--relearn={relearn}"]
    _call(words, page["environment"], processes=jobs)
    return folder / "audit.json"


def _call(words: list[str], environment: dict[str, str], processes: int = 1) -> None:
    """Run a script, as so many processes that share its work; an audit that lacks something is told of, and stands."""
    began = time.monotonic()
    # A pipe that nobody reads would fill up and stop its process, which may hold what another one waits for.
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(TemporaryFile("w+")) for _ in range(processes)]
        running = [subprocess.Popen(words, cwd=ROOT, env=environment | os.environ, stderr=log) for log in logs]
        codes = [process.wait() for process in running]
        for code, log in zip(codes, logs, strict=True):
            log.seek(0)
            last = (log.read().strip().splitlines() or ["failed"])[-1]
            if code not in (0, INCOMPLETE):
                raise BadInput(f"{' '.join(words)}: {last}")
    print(f"{time.monotonic() - began:.0f} s: {' '.join(words[1:3])}", file=sys.stderr)


def lines_of(card: dict[str, Any], method: str, seed: int) -> Iterator[Line]:
    """What is kept of a card."""

    def line(subject: str, what: str, where: str, one: dict[str, Any] | None) -> Iterator[Line]:
        if one and one["value"] is not None:
            yield Line(seed, method, subject, what, where, *(one.get(key) for key in ("value", "low", "high")))

    for point in card["points"]:
        subject, where = point["subject"], f"{point['group']} {point['name']}"
        for metric in ("asr", "rr", "sarr", "rouge_l", "recovered"):
            yield from line(subject, metric, where, point["metrics"].get(metric))
        for measure in MEASURES:
            yield from line(subject, measure, where, point.get("measures", {}).get(measure))
        for count, one in point.get("asr_at", {}).items():
            yield from line(subject, f"asr@{count}", where, one)
    for measure, of in card["shares"].items():
        for subject, one in of.items():
            yield from line(subject, f"share {measure}", "way", one) if measure in (*MEASURES, "asr") else ()
    for attacker, of in card["relearning"].items():
        for subject, told in of.items():
            for bound, steps in told["steps_to"].items():
                yield from line(subject, f"steps to {bound}", f"relearn_{attacker}", {"value": steps})
            yield from line(subject, "area", f"relearn_{attacker}", {"value": told["area"]})


def read(path: Path) -> list[Line]:
    """What is kept."""
    with path.open(encoding="utf-8", newline="") as handle:
        return [
            Line(int(row.pop("seed")), *(row.pop(key) for key in Line._fields[1:5]), *_numbers(row.values()))
            for row in csv.DictReader(handle)
        ]


def _numbers(told: Iterable[str]) -> list[float | None]:
    return [float(each) if each else None for each in told]


def write(path: Path, lines: Iterable[Line]) -> None:
    """Keep lines."""
    with write_whole(path) as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(Line._fields)
        writer.writerows([f"{part:.4g}" if isinstance(part, float) else part for part in line] for line in lines)


# Rows of the tables: a title, and of which audit which subject. Controls are the same in all audits, but for `tuned`.
ROWS = {
    **{f"`{name}`": ("popd", name) for name in ("vanilla", "told", "never_knew")},
    "`none`": ("po", "tuned"),
    "`none+pd`": ("popd", "tuned"),
    **{name.upper().replace("PD", "+PD").replace("++", "+"): (name, "audited") for name in METHODS},
}
# Tables: the corner, and by column what is shown and where it was taken.
TABLES = {
    "as it is, inside": {
        **{metric.upper(): (metric, "clean clean") for metric in ("asr", "rr", "sarr")},
        "ROUGE-L": ("rouge_l", "clean clean"),
        "NLL gap, nats": ("gap", "inside inside"),
        **{name: (name, "inside inside") for name in ("exact_0", "exact_3")},
        "depth, nats": ("depth", "inside inside"),
        "probe": ("probe", "inside inside"),
    },
    "ASR after 64 steps": {name: ("asr", f"relearn_{name} 64") for name in ATTACKERS},
    "ASR under attack": {
        **{name: ("asr", f"attack {name}") for name in ("refusal_direction", "soft_prompt", "pgd", "crop", "flip")},
        "int4": ("asr", "quantization int4"),
        **{f"asr@{n}, T=1.3": (f"asr@{n}", "sampling 1.3") for n in (1, 10)},
    },
}
NONE = "–"
PLAIN = ("gap", "depth")  # what is not a share


def table(corner: str, lines: Iterable[Line]) -> str:
    """A table of TABLES as Markdown: means over seeds, or one seed's with its interval; in per cent but for
    PLAIN; a dash where there is none.

    Rows and columns that would be dashes alone are left out.
    """
    of: dict[tuple[str, str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        of[line.method, line.subject, line.what, line.where].append(line)
    rows = {
        title: {name: _cell(of.get((*subject, *column), []), column[0]) for name, column in TABLES[corner].items()}
        for title, subject in ROWS.items()
    }
    shown = [name for name in TABLES[corner] if any(cells[name] != NONE for cells in rows.values())]
    told = [[corner, *shown], ["---"] * (len(shown) + 1)]
    told += [[title, *map(cells.get, shown)] for title, cells in rows.items() if set(cells.values()) != {NONE}]
    return "\n".join(f"| {' | '.join(row)} |" for row in told)


def _cell(lines: list[Line], what: str) -> str:
    if not lines:
        return NONE
    scale, digits = (1, 1) if what in PLAIN else (100, 0)
    mean, (_, low, high) = sum(line.value for line in lines) / len(lines), lines[0][-3:]
    alone = len(lines) == 1 and low is not None and high is not None
    return f"{scale * mean:.1f}" + (f" [{scale * low:.{digits}f}, {scale * high:.{digits}f}]" if alone else "")


def with_tables(path: Path, lines: list[Line]) -> str:
    """A page with all tables in place of those that have the same corner. Raises `BadInput` if one is not there."""
    page = path.read_text(encoding="utf-8")
    for corner in TABLES:
        changed = with_table(page, table(corner, lines))
        if changed is None:
            raise BadInput(f"{path}: no table '{corner}'")
        page = changed
    return page


@command
def main(argv: list[str] | None = None) -> None:
    """Read the command line, make the audits, keep their figures, and write the tables."""
    parser = Arguments(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini", choices=PAGES, help="default: %(default)s")
    parser.add_argument("--methods", nargs="+", help=f"default: {OF}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[233], help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="default: results/mini_audit, or results/mini_small_audit")
    says = "the protocol of relearning (default: config/relearn_mini.yaml, or relearn_mini_small.yaml)"
    parser.add_argument("--relearn", type=Path, help=says)
    parser.add_argument("--jobs", type=int, default=2, help="processes that share an audit (default: %(default)s)")
    parser.add_argument("--tables", action="store_true", help="write the tables alone, from what is kept")
    given = parser.parse_args(argv)
    kept_file, page = kept_in(given.model), PAGES[given.model]
    if not given.tables:
        out = (given.out or Path("results", kept_file.stem)).absolute()
        own = ROOT / "config" / f"relearn_{given.model.replace('-', '_')}.yaml"
        relearn = (given.relearn or own).absolute()
        wanted = [(method, seed) for seed in given.seeds for method in given.methods or OF[given.model]]
        cards = {each: make(given.model, *each, out, given.jobs, relearn) for each in wanted}
        made = [line for (method, seed), path in cards.items() for line in lines_of(read_object(path), method, seed)]
        made = [line for line in made if (line.method, line.subject) in ROWS.values()]
        kept = [one for one in read(kept_file) if (one.method, one.seed) not in cards] if kept_file.is_file() else []
        write(kept_file, sorted([*kept, *made], key=lambda line: line[:5]))
    text = with_tables(page, read(kept_file))
    with write_whole(page) as handle:
        handle.write(text)


if __name__ == "__main__":
    main()
