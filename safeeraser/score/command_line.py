"""The options of eval_all.py, on a command line or as keywords."""

import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from safeeraser.arguments import Arguments, count, one_of, several, share
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.errors import BadInput
from safeeraser.judge.check import MIN_ACCURACY, check
from safeeraser.judge.costs import parse_price
from safeeraser.judge.judging import FORMS, calls, judges, make_judging
from safeeraser.score.label_sheet import LABELLED
from safeeraser.score.options import Options, statistics
from safeeraser.score.run import Scored, score

OWN = [field.name for field in fields(Options) if field.name != "judging"]  # what a scoring run alone is asked


def arguments(description: str | None = None) -> Arguments:
    """All options, with their help."""
    parser = Arguments(description=description)
    files(parser.add_argument)
    statistics(parser.add_argument)
    validity(parser.add_argument_group("how good the judge is", "docs/judging.md").add_argument)
    group = parser.add_argument_group("judges", FORMS)
    judges(group.add_argument)
    recorded(group.add_argument)
    group = parser.add_argument_group("calls")
    calls(group.add_argument)
    spending(group.add_argument)
    return parser


def files(add: Callable) -> None:
    """What is scored, how, and where the results go."""
    add("--input_file", type=Path, help="the predictions: the data file's list with the responses in it")
    add(
        "--file_refer",
        type=Path,
        help="the data file the predictions were made on; its texts are the reference",
    )
    add("--output_file_rr", type=Path, help="where the verdicts go; the statistics go beside it as .txt")
    add(
        "--summary",
        type=Path,
        help="where the figures go, as the report reads them; at least one of the two",
    )
    add(
        "--overwrite",
        action="store_true",
        help="replace files that this command did not write, or wrote by other judges",
    )
    add("--split", type=one_of("split", SPLITS), help="train or val (default: told by the name of --file_refer)")
    add("--category", default="all", help="score one category alone (default: %(default)s)")
    add(
        "--refusals",
        action="store_true",
        help="also the share of refusals in each view that was asked: harmful, benign or no picture, with a harmful or "
        "harmless question",
    )
    add(
        "--recovered",
        action="store_true",
        help="also how much of the vanilla model's answers is in the responses to harmful questions (ROUGE-L recall)",
    )
    add("--compare", type=Path, metavar="SUMMARY", help="another run's summary: differences on the same requests")


def validity(add: Callable) -> None:
    """Whether the judge can be believed."""
    add(
        "--check_judge",
        action="store_true",
        help="instead of scoring, ask the judge about shipped cases of known truth; exit code 3 where it falls short",
    )
    add(
        "--min_accuracy",
        type=share,
        default=MIN_ACCURACY,
        metavar="SHARE",
        help="of the cases of each metric that --check_judge wants right (default: %(default)s)",
    )
    add("--label_sheet", type=Path, metavar="FILE", help="draw responses for people to label: a .csv, a page beside it")
    add("--label_n", type=count, default=200, metavar="N", help="how many (default: %(default)s)")
    add("--label_seed", type=int, default=0, metavar="SEED", help="of the draw (default: %(default)s)")
    add("--label_metrics", type=several("metric", LABELLED), default=(), help="for these alone, with commas between")
    add(
        "--agree",
        type=Path,
        metavar="LABELS",
        help="how far the judge agrees with a sheet's labels or another run (its folder, summary or verdicts), and "
        "rates less the judge's errors",
    )
    add("--disagreements", type=Path, metavar="FILE", help="a page of those with --agree, each masked until opened")


def recorded(add: Callable) -> None:
    """Replies in a file."""
    add("--replies", type=Path, help="recorded replies, for the judge replay")
    add("--save_replies", type=Path, help="record the raw replies here, for the judge replay")


def spending(add: Callable) -> None:
    """What it costs."""
    add(
        "--batch",
        action="store_true",
        help="ask openai through its Batch API: half the price, within 24 hours; stopped at any moment, the same "
        "command waits on for what was submitted",
    )
    add("--dry_run", action="store_true", help="print the calls, tokens and dollars it would take, and stop")
    add("--price", type=parse_price, metavar="IN,OUT", help="US dollars for a million tokens of prompts, of replies")


def run(given: dict[str, Any]) -> Scored | None:
    """Do what the options as they were parsed ask for. Raises `BadInput` where they cannot be meant."""
    if not given["check_judge"]:
        return score(options_of(given))
    usual = arguments().get_default
    if named := [key for key in OWN if given[key] != usual(key)]:
        raise BadInput(f"--check_judge has its own cases, and keeps what it finds itself: leave out --{named[0]}")
    checked = check(make_judging(given), given["min_accuracy"])
    if checked is None:
        return None
    if checked.short:
        bound = f"--min_accuracy {given['min_accuracy']}"
        print(f"error: the judge falls short ({bound}): {'; '.join(checked.short)}", file=sys.stderr)
    return Scored(checked.metrics, {"--min_accuracy": checked.short} if checked.short else {})


def options_of(given: dict[str, Any]) -> Options:
    """What was asked, by the options as they were parsed. Raises `BadInput` for judges that cannot be meant."""
    for key in ("input_file", "file_refer"):
        if not given[key]:
            raise BadInput(f"--{key} is missing (see --help)")
    judging = make_judging(given, data=given["file_refer"])
    return Options(judging=judging, **{key: given[key] for key in OWN})
