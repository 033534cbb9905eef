"""The report of some runs, as a page and as the files beside it."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from safeeraser import __version__
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.metrics import METRICS
from safeeraser.errors import BadInput
from safeeraser.report import heat, tables
from safeeraser.report.examples import examples
from safeeraser.report.judges import judges
from safeeraser.report.plots import curves, scatter_plots
from safeeraser.report.results import blank_table, paper_table, published_table
from safeeraser.report.robustness import tables as audit_tables
from safeeraser.report.robustness.card import Card, different_settings, read_cards, settings_line
from safeeraser.report.robustness.findings import findings
from safeeraser.report.robustness.plots import curves as card_curves
from safeeraser.report.runs import Run, read_runs
from safeeraser.report.specificity import task_table
from safeeraser.report.tables import Table


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
    runs = read_runs(folders)
    paper, blank, benchmarks, cards = paper_table(runs), blank_table(runs), task_table(runs), read_cards(runs)
    beside = published_table().rows if published else []
    shown = [paper, blank] if any(run.blank for run in runs) else [paper]
    drawn = {"scatters": scatter_plots(paper.rows, beside), "curves": curves(runs)}
    of_cards = {card.name: card_curves(card) for card in cards}
    text = page(
        runs, cards, note=note, redact=redact, tables=shown, benchmarks=benchmarks, card_curves=of_cards, **drawn
    )
    for plot in [plot for plots in (*drawn.values(), *of_cards.values()) for plot in plots]:
        plot.write_png(page_path.parent / "plots")
    parts = [tables.markdown(paper, beside), note, *map(_titled, [*shown[1:], *filter(None, [benchmarks])])]
    texts = {
        page_path.name: text,
        "table.md": "\n\n".join(filter(None, parts)) + "\n",
        "table.csv": tables.run_csv([paper, blank]),
        "table.tex": tables.latex(shown, beside, note),
    }
    if cards:
        texts |= {"robustness.md": audit_tables.text(cards), "robustness.csv": audit_tables.long_csv(cards)}
    for name, content in texts.items():
        with write_whole(page_path.parent / name) as handle:
            handle.write(content)
    summaries = {run.name: run.as_json() for run in runs}
    for card in cards:
        summaries[card.name]["robustness"] = card.as_json()
    write_json(page_path.parent / "summary.json", {"runs": summaries})
    tables.show(paper, beside)
    if len(shown) > 1:
        print(blank.title)
        tables.show(blank)
    print(note, f"report: {page_path}", sep="\n")


def page(runs: list[Run], cards: list[Card], *, redact: bool, **more: Any) -> str:
    """The report as one HTML page that needs no other file, and no script: what is masked is so without one.

    Args:
        more: what the template shows as it is given.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"svg": lambda plot: Markup(plot.svg()), "shade": heat.shade}
    environment.globals |= {
        "findings": findings,
        "settings": settings_line,
        "conditions": audit_tables.conditions,
        "refusals": audit_tables.refusals,
        "curve_tables": audit_tables.curve_tables,
    }
    return environment.get_template("report.html.j2").render(
        metrics=METRICS,
        published=published_table(),
        judges=judges(runs),
        categories=heat.by_category(runs),
        keywords=heat.by_keyword(runs),
        scale=heat.scale(),
        cards=cards,
        comparison=audit_tables.comparison(cards),
        different=different_settings(cards),
        redact=redact,
        examples=[] if redact else examples(runs),
        version=__version__,
        **more,
    )


def _titled(table: Table) -> str:
    return f"{table.title}:\n\n{tables.markdown(table)}"
