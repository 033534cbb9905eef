"""From run folders to the page that researchers look at: the paper's table, plots, heat maps and judged examples.

  python -m safeeraser.report RUN... --out report.html [--published] [--note TEXT] [--redact]
  python -m safeeraser.report RESULTS [...]     the same for RESULTS/*/, into RESULTS

A RUN is a run folder, named for its method, or a folder that holds run folders. A run folder holds summary_val.json,
summary_train.json (eval_all.py --summary writes them) and, where there are any, the verdicts, specificity.json,
train_log.jsonl, probe.jsonl and audit.json. Beside the page go summary.json, table.md, table.csv, table.tex, plots/
and, of runs that were audited, robustness.md and robustness.csv.
"""

from pathlib import Path

from safeeraser.arguments import Arguments
from safeeraser.errors import command
from safeeraser.report.page import report


@command
def main() -> None:
    """Read the arguments, report."""
    parser = Arguments(prog="python -m safeeraser.report", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="a run folder, or a folder of run folders")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: report.html in the one folder)")
    parser.add_argument("--note", default="", help="a banner for the page and the table")
    parser.add_argument("--published", action="store_true", help="the published figures in tables and plots as well")
    parser.add_argument("--redact", action="store_true", help="leave questions, responses and pictures out")
    arguments = vars(parser.parse_args())
    report(*arguments.pop("folders"), **arguments)


if __name__ == "__main__":
    main()
