"""The report of some runs, as a page and as the files beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safeeraser import __version__
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.errors import BadInput
from safeeraser.report import forest, heat, scale
from safeeraser.report.examples import examples
from safeeraser.report.judges import Judges, judges
from safeeraser.report.plots import curves
from safeeraser.report.provenance import different_data, provenance, warnings
from safeeraser.report.ranking import finding, measures, rank
from safeeraser.report.results import (
    blank_table,
    method_row,
    paper_table,
    published_table,
    seeds_table,
    task_table,
    wrong_table,
)
from safeeraser.report.robustness import tables as card_tables
from safeeraser.report.robustness.card import Card, different_settings, read_cards, settings_line
from safeeraser.report.robustness.findings import findings, headline
from safeeraser.report.robustness.plots import curves as card_curves
from safeeraser.report.runs import read_runs
from safeeraser.report.seeds import Method, methods
from safeeraser.report.sides import sides_table
from safeeraser.report.tables import Row, Table
from safeeraser.report.writing import comma_separated, macros, render, show


def report(
    *folders: Path,
    out: Path | None = None,
    note: str = "",
    published: bool = False,
    redact: bool = False,
    compared: bool = False,
) -> None:
    """Write the report of the runs in `folders`, and print its tables.

    Args:
        folders: run folders, or folders of run folders, or of folders of those.
        out: the page; everything else goes beside it. None: `report.html` in the folder, of which there is one then.
        note: a banner over the page, such as what its figures must not be taken for.
        published: put the published figures into the tables and the plot too. The page always has them in a table.
        redact: leave questions, responses and pictures out, so that the page may be passed on.
        compared: the folders are two sets of runs, to stand side by side with their differences.

    Raises:
        BadInput: a folder holds no run, a run's file cannot be used, two sets have nothing in common, or it is unclear
            where the page is to go.
    """
    page_path = _page_path(folders, out)
    found = methods(read_runs(folders, compared=compared))
    cards = read_cards([run for method in found for run in method.seeds])
    who = judges([run for method in found for run in method.seeds])
    context = _context(found, who, published) | _robustness(cards)
    context |= {"note": note, "redact": redact, "sides": sides_table(found, *folders) if compared else None}
    context["tables"][1:1] = filter(None, [context["sides"]])
    context["examples"] = [] if redact else examples([method.seeds[0] for method in found])
    texts = {page_path.name: render("report.html.j2", **context)}
    texts |= {name: render(f"{name}.j2", **context) for name in ("table.md", "table.tex")}
    texts["table.csv"] = _wide(context["rows"])
    if cards:
        texts["robustness.md"] = render("robustness.md.j2", **context)
        texts["robustness.csv"] = card_tables.comma_separated_points(cards)
    for name, content in texts.items():
        _write(page_path.parent / name, content)
    alone = macros("forest.svg.j2").alone
    forests = [context["forest"], *(card["forest"] for card in context["cards"])]
    for plot in (one for one in forests if one.drawn):
        _write(page_path.parent / "plots" / f"{plot.slug}.svg", alone(plot, forest))
    for plot in sum((card["plots"] for card in context["cards"]), context["curves"]):
        plot.write_png(page_path.parent / "plots")
    write_json(page_path.parent / "summary.json", _summary(found, cards, context["provenance"]))
    for number, table in enumerate(context["tables"]):
        print(f"{table.title}:\n" * bool(number), end="")
        show(table)
    print(note, f"report: {page_path}", sep="\n")


def _page_path(folders: tuple[Path, ...], out: Path | None) -> Path:
    if out is None and len(folders) > 1:
        raise BadInput("several folders: say with --out FILE where the page is to go")
    path = out or folders[0] / "report.html"
    if path.is_dir():
        raise BadInput(f"{path}: is a folder; name a file")
    if path.is_file() and path.suffix != ".html":
        raise BadInput(f"--out {path}: is there, and is no page; a page's name ends in .html")
    return path


def _write(path: Path, content: str) -> None:
    with write_whole(path) as handle:
        handle.write(content)


def _context(found: list[Method], who: Judges, published: bool) -> dict[str, Any]:
    """What the templates are given of the runs: the page needs no other file, and no script."""
    runs, every = [method.run for method in found], [run for method in found for run in method.seeds]
    rows, others = [method_row(method) for method in found], published_table()
    paper = paper_table(rows, found, others.rows if published else [])
    ranking = rank(rows, paper.published)
    first = measures(ranking.utility)
    # The page has these over all figures; a table that leaves it has them with it.
    remarks = [
        *who.warnings,
        *different_data(found),
        *(f"{METRICS[key].title}: {'; '.join(who.told[key])}" for key in who.different),
    ]
    more = [table for table in (seeds_table(rows), *_by_view(found)) if table]
    apart = {*who.different} & {COLUMNS[key].metric for key in first} or different_data(found)
    columns = {key: paper.columns[key] for key in dict.fromkeys([*first, *paper.columns])}
    return {
        "metrics": METRICS,
        "rows": rows,
        "judges": who,
        "finding": "" if apart else finding(ranking),
        "warnings": warnings(found, who),
        "forest": forest.methods_forest(ranking),
        "measures": [METRICS[COLUMNS[key].metric] for key in first],
        "glance": replace(paper, rows=ranking.rows, columns=columns, title="All figures"),
        "tables": [replace(paper, remarks=[*remarks, *paper.remarks]), *more],
        "benchmarks": task_table(every),
        "published": others,
        "categories": heat.heat_maps(runs, "category"),
        "keywords": heat.heat_maps(runs, "keyword"),
        "scale": scale.gradient(),
        "shapes": forest.SHAPES,
        "box": forest,
        "curves": curves(every),
        "provenance": provenance(found, who),
        "version": __version__,
    }


def _by_view(found: list[Method]) -> list[Table]:
    """The tables of what summaries tell of the responses in each view, where one does."""
    rows, made = [method_row(method) for method in found], {"blank": blank_table, "wrong": wrong_table}
    return [table(rows) for name, table in made.items() if any(method.run.by_view(name) for method in found)]


def _robustness(cards: list[Card]) -> dict[str, Any]:
    """What the templates are given of the runs' audits."""
    comparison = card_tables.comparison(cards)
    return {"cards": list(map(_shown, cards)), "comparison": comparison, "different": different_settings(cards)}


def _shown(card: Card) -> dict[str, Any]:
    """A card as the templates show it."""
    return {
        "title": card.title,
        "headline": headline(card),
        "forest": forest.audit_forest(card.name, card.title, _conditions(card)),
        "findings": findings(card),
        "own_lines": bool(card.findings),
        "missing": card.missing,
        "settings": settings_line(card),
        "conditions": card_tables.conditions(card),
        "refusals": card_tables.refusals(card),
        "curves": card_tables.curve_tables(card),
        "plots": card_curves(card),
    }


def _conditions(card: Card) -> list[tuple[str, Figure, Figure | None]]:
    told = card.highest_by_condition
    return [(one.name, one.point.figure("asr"), one.untouched.figure("asr") if one.untouched else None) for one in told]


def _wide(rows: list[Row]) -> str:
    """A row a method with value, low and high of each column."""
    known = any(key.startswith("wrong_") for row in rows for key in row.cells)
    columns = [*COLUMNS, *blank_table(rows).columns, *(wrong_table(rows).columns if known else ())]
    head = ["method", "seeds", *(f"{key}_{part}" for key in columns for part in ("value", "low", "high"))]
    return comma_separated(head, ([row.name, len(row.seeds) or 1, *map(row.cell, columns)] for row in rows))


def _summary(found: list[Method], cards: list[Card], told: dict[str, Any]) -> dict[str, Any]:
    """Every run's figures, those of several seeds joined as well, and what made them."""
    runs = {run.name: run.as_json() for method in found for run in method.seeds}
    for card in cards:
        runs[card.name]["robustness"] = card.as_json()
    pooled = {}
    for method in (one for one in found if len(one.seeds) > 1):
        figures = {key: one.model_dump(include={"value", "low", "high"}) for key, one in method.run.figures.items()}
        pooled[method.run.title] = {"runs": [run.name for run in method.seeds], "figures": figures}
    return {"runs": runs, "pooled": pooled, "provenance": told}
