"""From a results folder to the paper's table: writes summary.json, report.html and plots/ into it, prints the table.

  python -m safeeraser.score.report RESULTS [--published] [--note TEXT]

RESULTS holds one folder a run, named for its method: RESULTS/popd/summary_val.json, summary_train.json (eval_all.py
--summary writes them) and, where there are any, specificity.json and train_log.jsonl.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from safeeraser import __version__
from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.errors import command
from safeeraser.score.plots import Plot, plots
from safeeraser.score.runs import COLUMNS, Row, Run, published_rows, read_runs


def percent(value: float | None) -> str:
    """A table cell: one decimal, a dash where nothing was measured."""
    return "–" if value is None else f"{value:.1f}"


def report(folder: Path, *, note: str = "", published: bool = False) -> None:
    """Collect the runs of `folder` and write their report into it.

    Args:
        note: a banner over the page, such as what its figures must not be taken for.
        published: put the published figures into the terminal's table and the plot too. The page always has them.

    Raises:
        BadInput: the folder holds no run, or a run's file cannot be used.
    """
    runs = read_runs(folder)
    rows, source = published_rows()
    beside = rows if published else []
    drawn = list(plots(runs, beside))
    for plot in drawn:
        plot.write_png(folder / "plots")
    with write_whole(folder / "report.html") as handle:
        handle.write(page(runs, drawn, rows, source, note))
    write_json(folder / "summary.json", {"runs": {run.name: run.as_json() for run in runs}})
    show([run.row for run in runs], beside, note)


def page(runs: list[Run], drawn: list[Plot], published: list[Row], source: str, note: str) -> str:
    """The report as one HTML page that needs no other file."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template("report.html.j2").render(
        note=note,
        columns=COLUMNS,
        rows=[run.row for run in runs],
        published=published,
        source=source,
        judges=sorted(set().union(*(run.judges for run in runs))),
        plots=[(plot.caption, Markup(plot.svg())) for plot in drawn],
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
        table.add_row(row.name, *map(percent, row.values.values()))
    if published:
        table.add_section()
        table.add_row("published:")
    for row in published:
        table.add_row(row.name, *map(percent, row.values.values()))
    console = Console()
    console.print(table)
    console.print(note)


@command
def main() -> None:
    """Read the arguments, report."""
    parser = Arguments(prog="python -m safeeraser.score.report", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="RESULTS", help="the results folder, one folder a run in it")
    parser.add_argument("--note", default="", help="a banner for the page and the table")
    parser.add_argument("--published", action="store_true", help="the published figures in table and plot as well")
    report(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
