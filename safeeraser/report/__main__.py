"""From run folders to the page that researchers look at: what the figures say, the paper's table, plots.

  python -m safeeraser.report RUN... --out report.html [--published] [--note TEXT] [--show_examples]
  python -m safeeraser.report RESULTS [...]     the same for RESULTS/*/, or RESULTS/*/*/, into RESULTS
  python -m safeeraser.report --compare A B --out report.html     two sets of runs, and how B's differ from A's
  python -m safeeraser.report RUN... --model_card                 the README.md of each, in its own folder
  python -m safeeraser.report RUN --model_card --push_to_hub OWNER/NAME     the same, and with the weights to the hub

A RUN is a run folder, named for its method, or a folder that holds run folders. A run folder holds summary_val.json,
summary_train.json (eval_all.py --summary writes them) and, where there are any, the verdicts, specificity.json,
run.json, train_log.jsonl, probe.jsonl and audit.json. Runs that differ by their seeds alone are one row. Beside the
page go summary.json, table.md, table.csv, table.tex, plots/ and figures.csv, the one table of all figures.
"""

from dataclasses import dataclass
from pathlib import Path

from safeeraser.arguments import Arguments, add_options, option, options_in
from safeeraser.errors import BadInput, command
from safeeraser.report.hub import publish
from safeeraser.report.model_card import write_card
from safeeraser.report.page import report


@dataclass(frozen=True)
class PageOptions:
    """What a page is made of beside run folders, and where it goes."""

    compare: list[Path] | None = option(
        None, type=Path, nargs=2, metavar="SET", help="two folders of runs, side by side"
    )
    out: Path | None = option(None, type=Path, metavar="FILE", help="the page (default: report.html in the one folder)")
    note: str = option("", help="a banner for the page and the table")
    published: bool = option(False, help="the published figures in tables and plots as well")
    show_examples: bool = option(False, help="judged questions, responses and pictures as well, each behind a mask")
    redact: bool = option(False, help="leave them out, as the page does without --show_examples")


@dataclass(frozen=True)
class CardOptions:
    """What becomes of a run's model card."""

    model_card: bool = option(False, help="write a run's model card and nothing else")
    overwrite: bool = option(False, help="a model card that a person has edited too")
    push_to_hub: str | None = option(None, metavar="OWNER/NAME", help="send weights and card there (token: HF_TOKEN)")
    public: bool = option(False, help="for all to see; else what is sent is private")


@command
def main() -> None:
    """Read the arguments, report."""
    parser = Arguments(prog="python -m safeeraser.report", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="RUN", help="a run folder, or a folder of run folders")
    add_options(parser, PageOptions, CardOptions)
    given = vars(parser.parse_args())
    folders = given["folders"]
    page, card = PageOptions(**options_in(PageOptions, given)), CardOptions(**options_in(CardOptions, given))
    if card.model_card:
        if page != PageOptions():
            raise BadInput("--model_card: goes with RUN, --overwrite, --push_to_hub and --public alone")
        return write_cards(folders, card)
    if card != CardOptions():
        raise BadInput("--overwrite, --push_to_hub and --public go with --model_card")
    if bool(folders) == bool(page.compare):
        raise BadInput("name run folders, or two sets of them with --compare A B")
    if page.redact and page.show_examples:
        raise BadInput("--redact leaves out what --show_examples shows: say one of them")
    shown = {"published": page.published, "show_examples": page.show_examples, "compared": bool(page.compare)}
    report(*(page.compare or folders), out=page.out, note=page.note, **shown)


def write_cards(folders: list[Path], options: CardOptions) -> None:
    """Write the cards of runs, and send one run with its card where that is asked for."""
    if not folders or (options.push_to_hub and len(folders) > 1):
        raise BadInput("--model_card: name the run's folder" + (", one for each place" if options.push_to_hub else ""))
    if options.public and not options.push_to_hub:
        raise BadInput("--public: goes with --push_to_hub")
    for folder in folders:
        if options.push_to_hub:
            place = publish(folder, options.push_to_hub, private=not options.public, overwrite=options.overwrite)
            print(f"sent: {place}")
        else:
            print(f"model card: {write_card(folder, overwrite=options.overwrite)}")


if __name__ == "__main__":
    main()
