"""The report of some runs, as a page and as the files beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from safeeraser import __version__
from safeeraser.benchmark.figures import NOTHING, write_table
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.errors import BadInput
from safeeraser.report.drawing import gradient
from safeeraser.report.examples import read_examples
from safeeraser.report.methods import Method, group_runs, seed_of
from safeeraser.report.plots import audit_forest, methods_forest, robustness_curves, training_curves
from safeeraser.report.ranking import headline, measures, rank
from safeeraser.report.read import SHOWN_BY_VIEW, columns_by_view, read_runs
from safeeraser.report.robustness import (
    Card,
    card_json,
    comparison,
    condition_tables,
    curve_tables,
    different_settings,
    read_cards,
    refusal_table,
    spell_settings,
)
from safeeraser.report.sides import sides_table
from safeeraser.report.sources import Judges, different_data, judges_of, provenance, warnings
from safeeraser.report.tables import (
    Line,
    heat_maps,
    method_line,
    paper_table,
    published_table,
    seeds_table,
    task_table,
    view_table,
)
from safeeraser.report.writing import comma_separated, render, show

UNTOUCHED = ("clean", "attack")  # conditions in which the untouched model's ASR stands beside the run's


def report(
    *folders: Path,
    out: Path | None = None,
    note: str = "",
    published: bool = False,
    show_examples: bool = False,
    compared: bool = False,
) -> None:
    """Write the report of the runs in `folders`, and print its tables.

    Args:
        folders: run folders, or folders of run folders, or of folders of those.
        out: the page; everything else goes beside it. None: `report.html` in the folder, of which there is one then.
        note: a banner over the page, such as what its figures must not be taken for.
        published: put the published figures into the tables and the plot too. The page always has them in a table.
        show_examples: put judged questions, responses and pictures in, each behind a mask.
        compared: the folders are two sets of runs, to stand side by side with their differences.

    Raises:
        BadInput: a folder holds no run, a run's file cannot be used, two sets have nothing in common, or it is unclear
            where the page is to go.
    """
    page_path = _page_path(folders, out)
    methods = group_runs(read_runs(folders, compared=compared))
    runs = [run for method in methods for run in method.seeds]
    cards, judges = read_cards(runs), judges_of(runs)
    context = _context(methods, judges, published) | _robustness(cards)
    context |= {"note": note, "sides": sides_table(methods, *folders) if compared else None}
    context["tables"][1:1] = filter(None, [context["sides"]])
    context["examples"] = read_examples([method.seeds[0] for method in methods]) if show_examples else []
    texts = {page_path.name: render("report.html.j2", **context)}
    texts |= {name: render(f"{name}.j2", **context) for name in ("table.md", "table.tex")}
    texts["table.csv"] = _wide(context["rows"])
    for name, content in texts.items():
        _write(page_path.parent / name, content)
    plots = [context["forest"], *context["curves"]]
    for plot in sum(([card["forest"], *card["plots"]] for card in context["cards"]), plots):
        if plot:
            plot.write(page_path.parent / "plots")
    pooled = [
        row.model_copy(update={"run": m.run.title, "seed": "mean"})
        for m in methods
        if m.seeds[1:]
        for row in m.run.rows
    ]
    write_table(page_path.parent / "figures.csv", [row for run in runs for row in run.rows] + pooled)
    write_json(page_path.parent / "summary.json", _summary(methods, cards, context["provenance"]))
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


def _context(methods: list[Method], judges: Judges, published: bool) -> dict[str, Any]:
    """What the templates are given of the runs: the page needs no other file, and no script."""
    shown, runs = [method.run for method in methods], [run for method in methods for run in method.seeds]
    lines, others = [method_line(method) for method in methods], published_table()
    paper = paper_table(lines, runs, others.rows if published else [])
    ranking = rank(lines, paper.published)
    first = measures(ranking.utility)
    # The page has these over all figures; a table that leaves it has them with it.
    remarks = [
        *judges.warnings,
        *different_data(runs),
        *(f"{METRICS[key].title}: {'; '.join(judges.spelled[key])}" for key in judges.different),
    ]
    by_view = [view_table(metric, lines) for metric in SHOWN_BY_VIEW if _measured(metric, lines)]
    apart = {*judges.different} & {COLUMNS[key].metric for key in first} or different_data(runs)
    columns = {key: paper.columns[key] for key in dict.fromkeys([*first, *paper.columns])}
    made = provenance(runs, judges) | {"seeds": {m.run.title: [seed_of(run) for run in m.seeds] for m in methods}}
    return {
        "metrics": METRICS,
        "rows": lines,
        "judges": judges,
        "finding": "" if apart else headline(ranking),
        "warnings": warnings(shown, runs, judges),
        "forest": methods_forest(ranking),
        "glance": replace(paper, rows=ranking.rows, columns=columns, title="All figures"),
        "tables": [replace(paper, remarks=[*remarks, *paper.remarks]), *filter(None, [seeds_table(lines)]), *by_view],
        "benchmarks": task_table(runs),
        "published": others,
        "categories": heat_maps(shown, "category"),
        "keywords": heat_maps(shown, "keyword"),
        "scale": gradient(),
        "curves": training_curves(runs),
        "provenance": made,
        "version": __version__,
    }


def _measured(metric: str, lines: list[Line]) -> bool:
    """Whether some line has a figure of a metric that is measured by view."""
    return any(key in line.cells for line in lines for key in columns_by_view(metric))


def _robustness(cards: list[Card]) -> dict[str, Any]:
    """What the templates are given of the runs' audits."""
    return {"cards": list(map(_shown, cards)), "comparison": comparison(cards), "different": different_settings(cards)}


def _shown(card: Card) -> dict[str, Any]:
    """A card as the template shows it."""
    conditions = [
        (one.title, one.figure(card.rows), one.figure(card.rows, "vanilla") if one.condition in UNTOUCHED else NOTHING)
        for one in card.conclusions.conditions
    ]
    return {
        "title": card.title,
        "headline": card.conclusions.headline,
        "forest": audit_forest(card.name, card.title, conditions),
        "findings": card.audit.findings,
        "missing": card.audit.missing,
        "settings": spell_settings(card),
        "conditions": condition_tables(card),
        "refusals": refusal_table(card),
        "curves": curve_tables(card),
        "plots": robustness_curves(card),
    }


def _wide(lines: list[Line]) -> str:
    """A line a method with value, low and high of each column."""
    columns = [*COLUMNS, *view_table("blank", lines).columns]
    columns += view_table("wrong", lines).columns if _measured("wrong", lines) else ()
    head = ["method", "seeds", *(f"{key}_{part}" for key in columns for part in ("value", "low", "high"))]
    return comma_separated(head, ([line.name, len(line.seeds) or 1, *map(line.cell, columns)] for line in lines))


def _summary(methods: list[Method], cards: list[Card], made: dict[str, Any]) -> dict[str, Any]:
    """Every run's figures, those of several seeds joined as well, and what made them."""
    runs = {run.name: run.as_json() for method in methods for run in method.seeds}
    for card in cards:
        runs[card.name]["robustness"] = card_json(card)
    pooled = {}
    for method in (one for one in methods if len(one.seeds) > 1):
        figures = {key: row.model_dump(include={"value", "low", "high"}) for key, row in method.run.figures.items()}
        pooled[method.run.title] = {"runs": [run.name for run in method.seeds], "figures": figures}
    return {"runs": runs, "pooled": pooled, "provenance": made}
