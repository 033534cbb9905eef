"""Tables and picture of the mini benchmark, from the `table.csv` that the report writes, kept in docs/results/.

python scripts/mini_picture.py results/reproduce_mini/table.csv    keeps mini.csv, draws mini.svg, writes README's table
python scripts/mini_picture.py                                      the same from what is kept; prints the table
python scripts/mini_picture.py --others results/reproduce_methods/table.csv     keeps mini_methods.csv; table of mini.md
python scripts/mini_picture.py --small results/reproduce/mini-small/table.csv     keeps mini_small.csv, and what the
                      runs' language.json say as mini_small_language.csv; tables of mini-small.md
"""

import csv
import re
from html import escape
from pathlib import Path

from safeeraser.arguments import Arguments
from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.files import read_json, read_object, write_whole
from safeeraser.benchmark.metrics import COLUMNS
from safeeraser.benchmark.responses import VIEWS
from safeeraser.benchmark.truth import read_truth
from safeeraser.errors import BadInput, command
from safeeraser.mini.language import rows as language
from safeeraser.report import writing
from safeeraser.report.drawing import FONTS
from safeeraser.report.plots import methods_forest
from safeeraser.report.tables import rank
from safeeraser.report.writing import Line

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
KEPT, PICTURE, README = RESULTS / "mini.csv", RESULTS / "mini.svg", ROOT / "README.md"
OTHERS, PAGE = RESULTS / "mini_methods.csv", RESULTS / "mini.md"
SMALL, SMALL_PAGE = RESULTS / "mini_small.csv", RESULTS / "mini-small.md"
LANGUAGE = SMALL.with_name("mini_small_language.csv")
SHOWN = {key: column.title for key, column in COLUMNS.items() if column.metric != "gpt_eval"}
SHOWN |= {"wrong_decoupled": "wrong ↓"}
OURS, THEIRS = "method of the paper", "other method"  # corners of the tables with intervals
PERPLEXITY = "perplexity.value"
DRAWN, PASSED_OVER, SEEN, HELD_OUT = "sarr.drawn", "sarr.passed_over", "sarr.seen", "sarr.held_out"
SPOKEN = {
    DRAWN: "SARR: train, shown to PD",
    PASSED_OVER: "train, not shown",
    SEEN: "val, train's concepts",
    HELD_OUT: "val, held-out concepts",
    PERPLEXITY: "perplexity",
    "questions.value": "text questions right",
    "questions.refused": "text refused",
    "questions.degenerate": "text degenerate",
    "harmful.answered": "new wording, harmful picture: answered",
    "harmful.refused": "harmful picture: refused",
    "benign.answered": "new wording, benign picture: answered",
    "benign.refused": "benign picture: refused",
    "fact.refused": "living or not: refused",
}
TITLE = "Mini benchmark: per cent on held-out pictures"
HEAD, EDGE, SCALE = 48, 14, 1.5  # above the plot and at its sides, as it measures; pixels for each of that

# A card of its own colour: legible whichever colour the page around it has.
STYLE = """\
svg { color: #1f2328 } .card { fill: #ffffff; stroke: #d0d7de }
@media (prefers-color-scheme: dark) { svg { color: #e6edf3 } .card { fill: #0d1117; stroke: #30363d } }
"""


def read(path: Path) -> list[Line]:
    """The rows of a report's `table.csv`. Raises `BadInput` if it is none."""
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            lines = list(csv.DictReader(handle))
        return [Line(line["method"], {key: _figure(line, key) for key in SHOWN}) for line in lines]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{path}: not the table.csv of a report ({error})") from None


def _figure(line: dict[str, str], key: str) -> Row:
    parts = {part: line[f"{key}_{part}"] for part in ("value", "low", "high")}
    return Row(**{part: float(told) / 100 if told else None for part, told in parts.items()})


def table(rows: list[Line], corner: str = "") -> str:
    """The rows as Markdown; with intervals if the table has a corner."""
    head = [corner, *SHOWN.values()]
    lines = [[row.name, *(_cell(row.cell(key), bool(corner)) for key in SHOWN)] for row in rows]
    return "\n".join(f"| {' | '.join(cells).lstrip()} |" for cells in [head, ["---"] * len(head), *lines])


def _cell(figure: Row, interval: bool) -> str:
    _, low, high = figure.per_cent
    return figure.text + (f" [{low:.0f}, {high:.0f}]" if interval and low is not None and high is not None else "")


def picture(rows: list[Line]) -> str:
    """The rows as a forest plot on a card, best first, as SVG. Raises `BadInput` where there is nothing to draw."""
    if (plot := methods_forest(rank(rows, []))) is None:
        raise BadInput("the table has no figures to draw")
    wide, high = (72 * side for side in plot.figure.get_size_inches())
    width, height = wide + 2 * EDGE, high + HEAD + EDGE
    place = f'x="{EDGE}" y="{HEAD}" width="{wide:g}" height="{high:g}"'
    drawn = re.sub('role="img" aria-label="[^"]*"', place, plot.svg(), count=1)  # the card describes itself
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{SCALE * width:g}" \
height="{SCALE * height:g}" font-family="{FONTS}" role="img" aria-labelledby="title desc">
<title id="title">The methods on the mini benchmark</title>
<desc id="desc">{escape(plot.description)}</desc>
<style>
{STYLE}</style>
<rect class="card" x=".5" y=".5" width="{width - 1:g}" height="{height - 1:g}" rx="8"/>
<g fill="currentColor">
<text x="{EDGE}" y="22" font-size="13" font-weight="600">{TITLE}</text>
<text x="{EDGE}" y="38" font-size="11">with 95% intervals; blue: better, yellow: worse</text>
</g>
{drawn}</svg>
"""


def with_table(page: Path, rows: list[Line], corner: str = "") -> str:
    """The page with this table in place of the one with its corner or columns. Raises `BadInput` if there is none."""
    if (text := writing.with_table(page.read_text(encoding="utf-8"), table(rows, corner))) is None:
        raise BadInput(f"{page}: no table with the columns of this one")
    return text


def read_language(source: Path) -> list[dict[str, str]]:
    """What is kept of language, or what the runs beside a report's table tell of it. Raises `BadInput` if none does."""
    if source == SMALL:
        return list(csv.DictReader(LANGUAGE.read_text(encoding="utf-8").splitlines()))
    results = {file.parent.name: read_object(file) for file in sorted(source.parent.glob("*/language.json"))}
    if not results:
        raise BadInput(f"{source.parent}: no run in it has a language.json")
    rows = [row | wrong_by_what_was_shown(source.parent / row["run"]) for row in language(results)]
    return [{key: each if key == "run" else _told(each) for key, each in row.items()} for row in rows]


def wrong_by_what_was_shown(run: Path) -> dict[str, float | None]:
    """SARR on train's benign pictures that prompt decouple was shown and on the others, and on val's of the concepts
    that there are in train and of those held out from it. None where there are none.

    Raises:
        BadInput: a file is missing, or the run was not on all records.
    """
    folder = Path(read_object(run / "summary_val.json")["data_file"]).parent
    held_out, truth = read_object(folder / "manifest.json")["held_out_concepts"], read_truth(folder / "all_val.json")
    train, val = (read_json(run / f"predictions_{split}.json") for split in ("train", "val"))
    drawn = records_drawn(run / "plan.json", [len(record["unsafe_pairs"]) for record in train])
    wrong: dict[str, list[bool]] = {kind: [] for kind in (DRAWN, PASSED_OVER, SEEN, HELD_OUT)}
    kinds = [DRAWN if number in drawn else PASSED_OVER for number in range(len(train))]
    kinds += [HELD_OUT if truth.pictures[record["SDImage_path"]] in held_out else SEEN for record in val]
    for kind, record in zip(kinds, [*train, *val], strict=True):
        said = [pair[field] for pair in record["unsafe_pairs"] for field in VIEWS["decoupled"].fields]
        wrong[kind] += [not truth.answers(record["SDImage_path"], each) for each in said]
    return {kind: sum(each) / len(each) if each else None for kind, each in wrong.items()}


def records_drawn(plan: Path, questions: list[int]) -> set[int]:
    """The numbers of train's records whose benign pictures a run was shown; none of an untouched model's.

    Args:
        plan: the run's, if it has one.
        questions: how many each record has.

    Raises:
        BadInput: the plan is of other records than all of these.
    """
    if not plan.is_file():
        return set()
    told = read_object(plan)
    if told["data"]["records"] != len(questions) or told["data"]["left_out"]:
        raise BadInput(f"{plan}: of some records alone; its numbers do not say which of the {len(questions)}")
    record_of = [number for number, count in enumerate(questions) for _ in range(count)]
    return {record_of[step["decoupled"]] for step in told["steps"] if step["decoupled"] is not None}


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def language_table(lines: list[dict[str, str]]) -> str:
    """As Markdown: perplexity, and shares in per cent."""
    rows = [["run", *SPOKEN.values()], ["---"] * (len(SPOKEN) + 1)]
    for line in lines:
        shares = {key: f"{100 * float(line[key]):.1f}" if line[key] else "–" for key in SPOKEN}
        rows.append([line["run"], *(shares | {PERPLEXITY: f"{float(line[PERPLEXITY] or 'inf'):.4g}"}).values()])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def small_contents(source: Path) -> dict[Path, str]:
    """What is written of the size small."""
    lines = read_language(source)
    page = writing.with_table(with_table(SMALL_PAGE, read(source), OURS), language_table(lines))
    if page is None:
        raise BadInput(f"{SMALL_PAGE}: no table 'run', of language")
    told = writing.comma_separated(lines[0], [line.values() for line in lines])
    return {SMALL: source.read_text(encoding="utf-8"), SMALL_PAGE: page, LANGUAGE: told}


@command
def main() -> None:
    """Keep the table, draw it, and write it into its page."""
    parser = Arguments(prog="python scripts/mini_picture.py", description=__doc__)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--others", action="store_true", help="of the methods beside the paper's")
    which.add_argument("--small", action="store_true", help="of the size small")
    parser.add_argument("table", type=Path, nargs="?", help="default: the one that is kept")
    given = parser.parse_args()
    kept = OTHERS if given.others else KEPT
    source = given.table or (SMALL if given.small else kept)
    rows, text = read(source), source.read_text(encoding="utf-8")
    if given.small:
        contents = small_contents(source)
    else:
        contents = {kept: text, PAGE: with_table(PAGE, rows, THEIRS if given.others else OURS)}
        if not given.others:
            contents |= {README: with_table(README, rows), PICTURE: picture(rows)}
    for path, content in contents.items():
        with write_whole(path) as handle:
            handle.write(content)
    print(table(rows))


if __name__ == "__main__":
    main()
