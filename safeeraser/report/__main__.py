"""From run folders to the page that researchers look at: what the figures say, the paper's table, examples.

  python -m safeeraser.report RUN... --out report.html [--published] [--note TEXT] [--redact]
  python -m safeeraser.report RESULTS [...]     the same for RESULTS/*/, or RESULTS/*/*/, into RESULTS
  python -m safeeraser.report --compare A B --out report.html     two sets of runs, and how B's differ from A's

A RUN is a run folder, named for its method, or a folder that holds run folders. A run folder holds summary_val.json,
summary_train.json (eval_all.py --summary writes them) and, where there are any, the verdicts, specificity.json,
run.json, train_log.jsonl, probe.jsonl and audit.json. Runs that differ by their seeds alone are one row. Beside the
page go summary.json, table.md, table.csv, table.tex, plots/ and, of runs that were audited, robustness.md and
robustness.csv.
"""

from pathlib import Path

from safeeraser.arguments import Arguments
from safeeraser.errors import BadInput, command
from safeeraser.report.page import report


@command
def main() -> None:
    """Read the arguments, report."""
    parser = Arguments(prog="python -m safeeraser.report", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="RUN", help="a run folder, or a folder of run folders")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="SET", help="two folders of runs, side by side")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the one folder)")
    parser.add_argument("--note", default="", help="a banner for the page and the table")
    parser.add_argument("--published", action="store_true", help="the published figures in tables and plots as well")
    parser.add_argument("--redact", action="store_true", help="leave questions, responses and pictures out")
    arguments = vars(parser.parse_args())
    folders, sets = arguments.pop("folders"), arguments.pop("compare")
    if bool(folders) == bool(sets):
        raise BadInput("name run folders, or two sets of them with --compare A B")
    report(*(folders or sets), **arguments, compared=bool(sets))


if __name__ == "__main__":
    main()
