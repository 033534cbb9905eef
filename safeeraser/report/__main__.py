"""Make a report page for researchers from run folders: the findings in words, the paper's table, plots.

  python -m safeeraser.report RUN... --out report.html [--published] [--note TEXT] [--show_examples]
  python -m safeeraser.report RESULTS [...]     the same for RESULTS/*/, or RESULTS/*/*/, into RESULTS
  python -m safeeraser.report --compare A B --out report.html     two sets of runs, with the differences B minus A
  python -m safeeraser.report RUN... --model_card                 the README.md of each, in its own folder
  python -m safeeraser.report RUN --model_card --push_to_hub OWNER/NAME     the same, then send it with the weights

A RUN is a run folder, named for its method, or a folder that holds run folders. A run folder holds summary_val.json,
summary_train.json (eval_all.py --summary writes them) and, where there are any, the verdicts, specificity.json,
run.json, train_log.jsonl, probe.jsonl and audit.json. Runs that differ only in their seeds share one row. The report
also writes summary.json, table.md, table.csv, table.tex, plots/ and figures.csv (all figures) next to the page.
"""

from argparse import Namespace
from pathlib import Path
from typing import Any

from safeeraser.arguments import Arguments
from safeeraser.errors import BadInput, command
from safeeraser.report.hub import publish
from safeeraser.report.model_card import write_card
from safeeraser.report.page import report


@command
def main() -> None:
    """Read the arguments, and write the report or model cards."""
    parser = Arguments(prog="python -m safeeraser.report", description=__doc__)
    add = parser.add_argument
    flag: dict[str, Any] = {"action": "store_true"}
    add("folders", type=Path, nargs="*", metavar="RUN", help="a run folder, or a folder of run folders")
    add("--compare", type=Path, nargs=2, metavar="SET", help="two folders of runs, side by side")
    add("--out", type=Path, metavar="FILE", help="the page (default: report.html in the one folder)")
    add("--note", default="", help="a banner for the page and the table")
    add("--published", **flag, help="the published figures in tables and plots as well")
    add("--show_examples", **flag, help="judged questions, responses and pictures as well, each behind a mask")
    add("--redact", **flag, help="leave them out, as the page does without --show_examples")
    add("--model_card", **flag, help="write a run's model card and nothing else")
    add("--overwrite", **flag, help="a model card that a person has edited too")
    add("--push_to_hub", metavar="OWNER/NAME", help="send weights and card there (token: HF_TOKEN)")
    add("--public", **flag, help="make the hub's repository public (default: private)")
    given = parser.parse_args()
    shown = {"published": given.published, "show_examples": given.show_examples, "compared": bool(given.compare)}
    if given.model_card:
        if given.out or given.note or given.redact or any(shown.values()):
            raise BadInput("--model_card: goes with RUN, --overwrite, --push_to_hub and --public alone")
        return write_cards(given)
    if given.overwrite or given.push_to_hub is not None or given.public:
        raise BadInput("--overwrite, --push_to_hub and --public go with --model_card")
    if bool(given.folders) == bool(given.compare):
        raise BadInput("name run folders, or two sets of them with --compare A B")
    if given.redact and given.show_examples:
        raise BadInput("--redact leaves out what --show_examples shows: say one of them")
    report(*(given.compare or given.folders), out=given.out, note=given.note, **shown)


def write_cards(given: Namespace) -> None:
    """Write the model cards of the runs; with --push_to_hub, send the one run with its card."""
    repo = given.push_to_hub
    if not given.folders or (repo and len(given.folders) > 1):
        raise BadInput("--model_card: name the run's folder" + (", one for each place" if repo else ""))
    if given.public and not repo:
        raise BadInput("--public: goes with --push_to_hub")
    for folder in given.folders:
        if repo:
            print(f"sent: {publish(folder, repo, private=not given.public, overwrite=given.overwrite)}")
        else:
            print(f"model card: {write_card(folder, overwrite=given.overwrite)}")


if __name__ == "__main__":
    main()
