"""From run folders to the page that researchers look at: what the figures say, the paper's table, examples.

  python -m safeeraser.report RUN... --out report.html [--published] [--note TEXT] [--redact]
  python -m safeeraser.report RESULTS [...]     the same for RESULTS/*/, or RESULTS/*/*/, into RESULTS
  python -m safeeraser.report --compare A B --out report.html     two sets of runs, and how B's differ from A's
  python -m safeeraser.report RUN... --model_card                 the README.md of each, in its own folder
  python -m safeeraser.report RUN --model_card --push_to_hub OWNER/NAME     the same, and with the weights to the hub

A RUN is a run folder, named for its method, or a folder that holds run folders. A run folder holds summary_val.json,
summary_train.json (eval_all.py --summary writes them) and, where there are any, the verdicts, specificity.json,
run.json, train_log.jsonl, probe.jsonl and audit.json. Runs that differ by their seeds alone are one row. Beside the
page go summary.json, table.md, table.csv, table.tex, plots/ and, of runs that were audited, robustness.md and
robustness.csv.
"""

from pathlib import Path

from safeeraser.arguments import Arguments
from safeeraser.errors import BadInput, command
from safeeraser.report.hub import publish
from safeeraser.report.model_card import write_card
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
    parser.add_argument("--model_card", action="store_true", help="write a run's model card and nothing else")
    parser.add_argument("--overwrite", action="store_true", help="a model card that a person has edited too")
    parser.add_argument("--push_to_hub", metavar="OWNER/NAME", help="send weights and card there (token: HF_TOKEN)")
    parser.add_argument("--public", action="store_true", help="for all to see; else what is sent is private")
    arguments = vars(parser.parse_args())
    folders, sets = arguments.pop("folders"), arguments.pop("compare")
    cards = {name: arguments.pop(name) for name in ("model_card", "overwrite", "push_to_hub", "public")}
    if cards.pop("model_card"):
        if sets or any(arguments.values()):
            raise BadInput("--model_card: goes with RUN, --overwrite, --push_to_hub and --public alone")
        return model_cards(folders, **cards)
    if any(cards.values()):
        raise BadInput("--overwrite, --push_to_hub and --public go with --model_card")
    if bool(folders) == bool(sets):
        raise BadInput("name run folders, or two sets of them with --compare A B")
    report(*(folders or sets), **arguments, compared=bool(sets))


def model_cards(folders: list[Path], *, overwrite: bool, push_to_hub: str | None, public: bool) -> None:
    """Write the cards of runs, and send one run with its card where that is asked for."""
    if not folders or (push_to_hub and len(folders) > 1):
        raise BadInput("--model_card: name the run's folder" + (", one for each place" if push_to_hub else ""))
    if public and not push_to_hub:
        raise BadInput("--public: goes with --push_to_hub")
    for folder in folders:
        if push_to_hub:
            print(f"sent: {publish(folder, push_to_hub, private=not public, overwrite=overwrite)}")
        else:
            print(f"model card: {write_card(folder, overwrite=overwrite)}")


if __name__ == "__main__":
    main()
