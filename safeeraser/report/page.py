"""The report of some runs, as a page and as the files beside it."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safeeraser import __version__
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.errors import BadInput
from safeeraser.report import heat, specificity, tables
from safeeraser.report.drawing import Plot
from safeeraser.report.examples import examples
from safeeraser.report.plots import curves, scatter_plots
from safeeraser.report.robustness.card import read_cards
from safeeraser.report.robustness.section import Section, files, section
from safeeraser.report.runs import METRICS, Run, judges, read_runs
from safeeraser.report.tables import COLUMNS, Row, published_rows


def report(*folders: Path, out: Path | None = None, note: str = "", published: bool = False, redact: bool = False):
    """Write the report of the runs in `folders`, and print its table.

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
    rows, beside = [run.row for run in runs], published_rows()[0] if published else []
    cards = read_cards(runs)
    drawn, robustness = (scatter_plots(runs, beside), curves(runs)), section(cards)
    text = page(runs, *drawn, robustness, note=note, redact=redact)
    for plot in [*drawn[0], *drawn[1], *robustness.plots]:
        plot.write_png(page_path.parent / "plots")
    texts = {
        page_path.name: text,
        "table.md": tables.markdown(rows, beside, note) + specificity.markdown(specificity.task_table(runs)),
        "table.csv": tables.comma_separated(rows),
        "table.tex": tables.latex(rows, beside, note),
        **files(cards),
    }
    for name, content in texts.items():
        with write_whole(page_path.parent / name) as handle:
            handle.write(content)
    summaries = {run.name: run.as_json() for run in runs}
    for card in cards:
        summaries[card.name]["robustness"] = card.as_json()
    write_json(page_path.parent / "summary.json", {"runs": summaries})
    show(rows, beside, note)
    print(f"report: {page_path}")


def page(
    runs: list[Run], scatters: list[Plot], training: list[Plot], robustness: Section, *, note: str, redact: bool
) -> str:
    """The report as one HTML page that needs no other file, and no script: what is masked is so without one."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = lambda plot: Markup(plot.svg())
    published, source = published_rows()
    return environment.get_template("report.html.j2").render(
        note=note,
        columns=COLUMNS,
        metrics=METRICS | {"specificity": "Specificity"},
        rows=[run.row for run in runs],
        published=published,
        source=source,
        judges=judges(runs),
        benchmarks=specificity.task_table(runs),
        scatters=scatters,
        categories=heat.by_category(runs),
        keywords=heat.by_keyword(runs),
        scale=heat.scale(),
        robustness=robustness,
        curves=training,
        redact=redact,
        examples=[] if redact else examples(runs),
        version=__version__,
    )


def show(rows: list[Row], published: list[Row], note: str) -> None:
    """Print the table; the published figures, if any, stand under a line."""
    # Headings break into short lines, so that the table fits a terminal of 80 columns.
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("method", no_wrap=True)
    for title in COLUMNS.values():
        table.add_column(title.replace("-", " "), justify="right", min_width=5)
    for row in rows:
        _add(table, row)
    if published:
        table.add_section()
        table.add_row("published:")
    for row in published:
        _add(table, row)
    console = Console()
    console.print(table)
    for line in tables.remarks(rows):
        console.print(escape(line))
    console.print(note)


def _add(table: Table, row: Row) -> None:
    # "withheld" would widen a column; why there is no figure stands below the table.
    texts = ("–" if row.cells[key].value is None else row.cells[key].text for key in COLUMNS)
    table.add_row(escape(row.name), *texts)
