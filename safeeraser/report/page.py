"""The report of some runs, as a page and as the files beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safeeraser import __version__
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.metrics import METRICS
from safeeraser.errors import BadInput
from safeeraser.report import heat
from safeeraser.report.examples import examples
from safeeraser.report.judges import judges
from safeeraser.report.plots import curves
from safeeraser.report.results import blank_table, paper_table, published_table, task_table
from safeeraser.report.robustness import tables as card_tables
from safeeraser.report.robustness.card import Card, different_settings, read_cards, settings_line
from safeeraser.report.robustness.findings import findings
from safeeraser.report.robustness.plots import curves as card_curves
from safeeraser.report.runs import Run, read_runs
from safeeraser.report.scatter import scatter_plots
from safeeraser.report.tables import Row
from safeeraser.report.writing import comma_separated, render, show


def report(*folders: Path, out: Path | None = None, note: str = "", published: bool = False, redact: bool = False):
    """Write the report of the runs in `folders`, and print its tables.

    Args:
        folders: run folders, or folders of run folders.
        out: the page; everything else goes beside it. None: `report.html` in the folder, of which there is one then.
        note: a banner over the page, such as what its figures must not be taken for.
        published: put the published figures into the tables and plots too. The page always has them in a table.
        redact: leave questions, responses and pictures out, so that the page may be passed on.

    Raises:
        BadInput: a folder holds no run, a run's file cannot be used, or it is unclear where the page is to go.
    """
    if out is None and len(folders) > 1:
        raise BadInput("several folders: say with --out FILE where the page is to go")
    page_path = out or folders[0] / "report.html"
    if page_path.is_dir():
        raise BadInput(f"{page_path}: is a folder; name a file")
    if page_path.is_file() and page_path.suffix != ".html":
        raise BadInput(f"--out {page_path}: is there, and is no page; a page's name ends in .html")
    runs = read_runs(folders)
    cards = read_cards(runs)
    rows = [Row(run.title, run.figures) for run in runs]
    paper, blank = paper_table(rows, published_table().rows if published else []), blank_table(rows)
    who = judges(runs)
    context = _context(runs, cards) | {"judges": who, "note": note, "scatters": scatter_plots(rows, paper.published)}
    # The page has these over all figures; a table that leaves it has them with it.
    remarks = [*who.warnings, *(f"{METRICS[key].title}: {'; '.join(who.told[key])}" for key in who.different)]
    leaving = replace(paper, remarks=remarks)
    context |= {"tables": [leaving, blank] if any(run.blank for run in runs) else [leaving], "paper": paper}
    context |= {"redact": redact, "examples": [] if redact else examples(runs)}
    texts = {page_path.name: render("report.html.j2", **context)}
    texts |= {name: render(f"{name}.j2", **context) for name in ("table.md", "table.tex")}
    texts["table.csv"] = _wide({**paper.columns, **blank.columns}, rows)
    if cards:
        texts["robustness.md"] = render("robustness.md.j2", **context)
        texts["robustness.csv"] = card_tables.comma_separated_points(cards)
    for name, content in texts.items():
        with write_whole(page_path.parent / name) as handle:
            handle.write(content)
    for plot in sum((card["plots"] for card in context["cards"]), context["scatters"] + context["curves"]):
        plot.write_png(page_path.parent / "plots")
    summaries = {run.name: run.as_json() for run in runs}
    for card in cards:
        summaries[card.name]["robustness"] = card.as_json()
    write_json(page_path.parent / "summary.json", {"runs": summaries})
    for number, table in enumerate(context["tables"]):
        print(f"{table.title}:\n" * bool(number), end="")
        show(table)
    print(note, f"report: {page_path}", sep="\n")


def _context(runs: list[Run], cards: list[Card]) -> dict[str, Any]:
    """What the templates are given of the runs and their audits: the page needs no other file, and no script."""
    return {
        "metrics": METRICS,
        "benchmarks": task_table(runs),
        "published": published_table(),
        "categories": heat.heat_maps(runs, "category"),
        "keywords": heat.heat_maps(runs, "keyword"),
        "scale": heat.scale(),
        "curves": curves(runs),
        "cards": [_shown(card) for card in cards],
        "comparison": card_tables.comparison(cards),
        "different": different_settings(cards),
        "version": __version__,
    }


def _shown(card: Card) -> dict[str, Any]:
    """A card as the templates show it."""
    return {
        "title": card.title,
        "findings": findings(card),
        "missing": card.missing,
        "settings": settings_line(card),
        "conditions": card_tables.conditions(card),
        "refusals": card_tables.refusals(card),
        "curves": card_tables.curve_tables(card),
        "plots": card_curves(card),
    }


def _wide(columns: dict[str, str], rows: list[Row]) -> str:
    """A row a run with value, low and high of each column."""
    head = ["method", *(f"{key}_{part}" for key in columns for part in ("value", "low", "high"))]
    return comma_separated(head, ([row.name, *map(row.cell, columns)] for row in rows))
