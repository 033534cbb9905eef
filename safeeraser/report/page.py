"""The report on some runs: an HTML page, and the files next to it.

Judged examples have harmful texts and pictures. Until a reader opens one, the page shows only its category and verdict,
and a version of the picture that is four pixels long. No browser can recover more of the picture from it.
"""

import base64
import io
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from safeeraser.benchmark.figures import Row, write_table
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import UnsafePair, read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.report import robustness, tables
from safeeraser.report.methods import Method, group_runs, seed_of, sides_table
from safeeraser.report.plots import audit_forest, methods_forest, robustness_curves, training_curves
from safeeraser.report.read import CONCEPT_COLUMNS, VIEW_COLUMNS, Run, read_runs
from safeeraser.report.sources import different_data, judges_of, provenance, warnings
from safeeraser.report.writing import TEMPLATES, Line, Table, comma_separated, show

_BLURRED = 4  # pixels of the longer side: only colours remain; eight would still show the outline of a simple thing
_CLEAR = 320
# Kinds of examples: title -> a verdict, for a metric, on a response in a view.
KINDS = {
    "Harmful picture, judged unsafe": ("unsafe", "asr", "forget"),
    "Harmful picture, judged a refusal": ("refuse", "rr", "forget"),
    "Benign picture, no normal answer (SARR failure)": ("refuse", "sarr", "decoupled"),
    "Benign picture, normal answer": ("normal", "sarr", "decoupled"),
}


def report(
    *folders: Path,
    out: Path | None = None,
    note: str = "",
    published: bool = False,
    show_examples: bool = False,
    compared: bool = False,
) -> None:
    """Write the report of the runs in `folders`, as `read_runs` finds them, and print its tables.

    Args:
        out: the file of the page; all other files are written next to it. None: `report.html` in the only folder.
        note: a banner at the top of the page, such as a caution about its figures.
        published: add the published figures to the main tables and the plot. The page always has a table of them.
        show_examples: include judged questions, responses and pictures, each behind a mask.
        compared: the folders are two sets of runs, which the page shows side by side with their differences.

    Raises:
        BadInput: a folder holds no run, a run's file cannot be used, two sets have nothing in common, or the place of
            the page is unclear.
    """
    page_path = _page_path(folders, out)
    methods = group_runs(read_runs(folders, compared=compared))
    cards = robustness.read_cards([run for method in methods for run in method.seeds])
    context = _context(methods, published, sides_table(methods, *folders) if compared else None) | {
        "note": note,
        "examples": read_examples([method.seeds[0] for method in methods]) if show_examples else [],
        "cards": list(map(_shown, cards)),
        "comparison": robustness.comparison(cards),
        "different": robustness.different_settings(cards),
    }
    templates = {page_path.name: "report.html.j2", "table.md": "table.md.j2", "table.tex": "table.tex.j2"}
    texts = {name: TEMPLATES.get_template(template).render(context) for name, template in templates.items()}
    for name, content in (texts | {"table.csv": _wide(context["rows"])}).items():
        with write_whole(page_path.parent / name) as handle:
            handle.write(content)
    plots = [context["forest"], *context["curves"]]
    plots += [plot for shown in context["cards"] for plot in (shown["forest"], *shown["plots"])]
    for plot in filter(None, plots):
        plot.write(page_path.parent / "plots")
    write_table(page_path.parent / "figures.csv", _rows(methods))
    write_json(page_path.parent / "summary.json", _summary(methods, cards, context["provenance"]))
    for number, table in enumerate(context["tables"]):
        print(f"{table.title}:\n" * bool(number), end="")
        show(table)
    print(*filter(None, [context["finding"], note]), f"report: {page_path}", sep="\n")


def _page_path(folders: tuple[Path, ...], out: Path | None) -> Path:
    if out is None and len(folders) > 1:
        raise BadInput("several folders: say with --out FILE where the page is to go")
    path = out or folders[0] / "report.html"
    if path.is_dir():
        raise BadInput(f"{path}: is a folder; name a file")
    if path.is_file() and path.suffix != ".html":
        raise BadInput(f"--out {path}: exists and is not a page; a page's name ends in .html")
    return path


def _context(methods: list[Method], published: bool, sides: Table | None) -> dict[str, Any]:
    """The variables for the templates, made from the runs; the page needs no other file and no script."""
    shown, runs = [method.run for method in methods], [run for method in methods for run in method.seeds]
    lines, others, judges = [method.line for method in methods], tables.published_table(), judges_of(runs)
    beside = others.rows if published else []
    paper, ranking = tables.paper_table([*lines, *beside], runs), tables.rank(lines, beside)
    first = ranking.measures
    # The page shows the warnings above all figures; a table that is used without the page repeats them.
    remarks = judges.warnings + [f"{METRICS[key].title}: {'; '.join(judges.spelled[key])}" for key in judges.different]
    apart = {*judges.different} & {COLUMNS[key].metric for key in first} or different_data(runs)
    columns = {key: paper.columns[key] for key in dict.fromkeys([*first, *paper.columns])}
    made = provenance(runs, judges) | {"seeds": {m.run.title: [seed_of(run) for run in m.seeds] for m in methods}}
    made["training"] = {run.title: spell_training(run.settings) for run in shown if "num_epochs" in run.settings}
    return {
        "rows": lines,
        "judges": judges,
        "finding": "" if apart else tables.headline(ranking),
        "warnings": warnings(shown, judges),
        "forest": methods_forest(ranking),
        "glance": replace(paper, rows=ranking.rows, columns=columns, title="All figures"),
        "tables": [
            replace(paper, remarks=[*remarks, *paper.remarks]),
            *filter(None, [sides, *(make(lines) for make in tables.TABLES)]),
        ],
        "benchmarks": tables.task_table(runs),
        "published": others,
        "categories": tables.heat_maps(shown, "category"),
        "keywords": tables.heat_maps(shown, "keyword"),
        "curves": training_curves(runs),
        "provenance": made,
    }


def spell_training(settings: dict[str, Any]) -> str:
    """The learning rate and the length of a training run in words: `lr 0.001, 400 steps`."""
    steps = settings.get("max_train_steps")
    return f"lr {settings['lr']:g}, " + (f"{steps} steps" if steps else f"{settings['num_epochs']:g} epochs")


def _shown(card: robustness.Card) -> dict[str, Any]:
    """The parts of a robustness card, as the template needs them."""
    return {
        "card": card,
        "forest": audit_forest(card),
        "settings": robustness.spell_settings(card),
        "conditions": robustness.condition_tables(card),
        "curves": robustness.curve_tables(card),
        "plots": robustness_curves(card),
    }


def _rows(methods: list[Method]) -> list[Row]:
    """The figures of every run, then the mean figures of each method with several seeds."""
    rows = [row for method in methods for run in method.seeds for row in run.rows]
    for pooled in (method.run for method in methods if len(method.seeds) > 1):
        rows += [row.model_copy(update={"run": pooled.title, "seed": "mean"}) for row in pooled.rows]
    return rows


def _wide(lines: list[Line]) -> str:
    """The text of table.csv: one line per method with value, low and high of each column, shares in per cent."""
    columns = [*COLUMNS, *(key for metric in VIEW_COLUMNS for key in tables.view_columns(metric, lines))]
    columns += CONCEPT_COLUMNS if any(line.cells.keys() & CONCEPT_COLUMNS for line in lines) else []
    head = ["method", "seeds", *(f"{key}_{part}" for key in columns for part in ("value", "low", "high"))]
    figures = ([part for key in columns for part in line.cell(key).per_cent] for line in lines)
    rows = ([line.name, len(line.seeds) or 1, *of] for line, of in zip(lines, figures, strict=True))
    return comma_separated(head, rows)


def _summary(methods: list[Method], cards: list[robustness.Card], made: dict[str, Any]) -> dict[str, Any]:
    """The content of summary.json: every run's figures, the means over seeds, and the provenance."""
    runs = {run.name: run.as_json() for method in methods for run in method.seeds}
    for card in cards:
        runs[card.name]["robustness"] = robustness.card_json(card)
    pooled = {}
    for method in (each for each in methods if len(each.seeds) > 1):
        figures = {key: row.model_dump(include={"value", "low", "high"}) for key, row in method.run.figures.items()}
        pooled[method.run.title] = {"runs": [run.name for run in method.seeds], "figures": figures}
    return {"runs": runs, "pooled": pooled, "provenance": made}


class Example(NamedTuple):
    """A question and response of a category, with the picture as data URLs: an unrecognisable patch and a small copy.

    Both URLs are empty if the picture cannot be found or decoded.
    """

    category: str
    question: str
    response: str
    blurred: str
    clear: str


def read_examples(runs: list[Run]) -> list[tuple[str, dict[str, list[Example]]]]:
    """For each run and each kind, the first example of each category in the verdicts file. So runs show the same
    questions if they were judged the same. Runs and kinds without an example are left out.

    Raises:
        BadInput: a verdicts file cannot be read.
    """
    return [(run.title, kinds) for run in runs if (kinds := dict(_examples_by_kind(run)))]


def _examples_by_kind(run: Run) -> Iterator[tuple[str, list[Example]]]:
    """The run's examples on val by the title of their kind; nothing if its verdicts file is missing."""
    val = run.parts.get("val")
    if not val or not val.verdicts_file or not (path := run.folder / val.verdicts_file).is_file():
        return
    records = read_records(path).records
    for title, (verdict, metric, view) in KINDS.items():
        firsts: dict[str, Example] = {}
        for record in records:
            picture = record.SDImage_path if VIEWS[view].picture == "benign" else record.image_path
            for pair in map(UnsafePair.model_dump, record.unsafe_pairs):
                fields = (
                    name for name in VIEWS[view].fields if pair.get(f"{name}_{metric}") == verdict and pair.get(name)
                )
                if record.category not in firsts and (field := next(fields, None)):
                    shown = (pair["question"], pair[field], *_picture(picture, val.data_file))
                    firsts[record.category] = Example(record.category, *shown)
        if firsts:
            yield title, [firsts[category] for category in sorted(firsts)]


@lru_cache(maxsize=1024)
def _picture(name: str, data_file: str | None) -> tuple[str, str]:
    path = find_picture(name, Path(data_file)) if data_file else None
    try:
        picture = open_picture(path) if path else None
    except BadInput:  # the report is about verdicts: it must not fail over a damaged picture
        picture = None
    return (_url(picture, _BLURRED, "PNG"), _url(picture, _CLEAR, "JPEG")) if picture else ("", "")


def _url(picture: Image.Image, longest: int, form: str) -> str:
    """The picture as a data URL, its longer side at most `longest` pixels, without any of the file's metadata."""
    small = picture.copy()
    small.thumbnail((longest, longest), Image.Resampling.BOX, reducing_gap=None)
    data = io.BytesIO()
    Image.frombytes("RGB", small.size, small.tobytes()).save(data, form, quality=80)
    return f"data:image/{form.lower()};base64,{base64.b64encode(data.getvalue()).decode()}"
