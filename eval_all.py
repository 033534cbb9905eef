"""Score a predictions file: ASR, RR, SARR, ROUGE-L and GPT-Eval.

  OPENAI_API_KEY=... python eval_all.py --input_file predictions.json --file_refer dataset/all_val.json \\
      --output_file_rr results/verdicts.json --summary results/summary_val.json
  python eval_all.py --judge rules --input_file ...                                            (offline, no key)
  python eval_all.py --judge qwen3guard --base_url http://localhost:8000/v1 --sarr_judge rules --input_file ...

Writes the verdicts beside the responses to --output_file_rr, and the release's statistics beside it, as .txt. Every
reply is kept in --store: stopped at any moment, the same command pays for none twice. Exit code 3: more replies failed
than --max_failed allows, so that figures were withheld.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from safeeraser.arguments import Arguments, count, json_object, one_of, share
from safeeraser.errors import BadInput, command
from safeeraser.score.costs import parse_price
from safeeraser.score.judges import JUDGES, SERVED, Choice
from safeeraser.score.options import PROTOCOLS, SPLITS, Options
from safeeraser.score.queries import METRICS
from safeeraser.score.run import score


def arguments() -> Arguments:
    """The command line of this script."""
    parser = Arguments(description=__doc__)
    files(parser.add_argument)
    forms = "each may be NAME, NAME:MODEL, NAME@ADDRESS or NAME:MODEL@ADDRESS"
    judges(parser.add_argument_group("judges", forms).add_argument)
    calls(parser.add_argument_group("calls").add_argument)
    return parser


def files(add: Callable) -> None:
    """What is scored, how, and where the results go."""
    add("--input_file", type=Path, required=True, help="the predictions: the data file's list with the responses in it")
    add(
        "--file_refer",
        type=Path,
        required=True,
        help="the data file the predictions were made on; its texts are the reference",
    )
    add("--output_file_rr", type=Path, required=True, help="where the verdicts go; the statistics go beside it as .txt")
    add("--summary", type=Path, help="also write one summary object here, as the report reads it")
    add("--split", type=one_of("split", SPLITS), help="train or val (default: told by the name of --file_refer)")
    add("--category", default="all", help="score one category alone (default: %(default)s)")
    add(
        "--refusals",
        action="store_true",
        help="also the share of refusals in each view that was asked: harmful, benign or no picture, with a harmful or "
        "harmless question",
    )
    add("--compare", type=Path, metavar="SUMMARY", help="another run's summary: differences on the same requests")
    add(
        "--protocol",
        type=one_of("protocol", PROTOCOLS),
        default="official",
        help="official: the release's statistics; corrected: failed and unreadable replies left out, records paired by "
        "picture, GPT-Eval's two texts in their places (default: %(default)s)",
    )
    add(
        "--max_failed",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="of a metric's replies that may have failed or be unreadable; past it the figure is withheld (default: "
        "%(default)s)",
    )


def judges(add: Callable) -> None:
    """Who judges."""
    add(
        "--judge",
        type=Choice.parse,
        default=Choice("openai"),
        help=f"{', '.join(JUDGES)} (default: openai, model gpt-4o)",
    )
    add("--judge_model", help="the model that --judge asks")
    add("--base_url", help="the address of the server that --judge asks (default: OpenAI's)")
    for metric in METRICS:
        add(f"--{metric}_judge", type=Choice.parse, metavar="JUDGE", help=f"another judge for {metric}")
    add("--replies", type=Path, help="recorded replies, for the judge replay")
    add("--save_replies", type=Path, help="record the raw replies here, for the judge replay")


def calls(add: Callable) -> None:
    """How a judge behind a server is asked."""
    add("--api_key", help="key for the server (default: the environment's OPENAI_API_KEY)")
    add("--concurrency", type=count, default=32, help="calls at a time (default: %(default)s)")
    add("--requests_per_minute", type=count, metavar="N", help="calls a minute at most")
    add(
        "--extra_body",
        type=json_object,
        default={},
        metavar="JSON",
        help='parameters of each call; null leaves one out: \'{"max_tokens": null, "temperature": null}\'',
    )
    add(
        "--store",
        type=Path,
        default=Path("results/verdicts.jsonl"),
        help="every reply, for all runs (default: %(default)s)",
    )
    add(
        "--batch",
        action="store_true",
        help="ask openai through its Batch API: half the price, within 24 hours; stopped at any moment, the same "
        "command waits on for what was submitted",
    )
    add("--dry_run", action="store_true", help="print the calls, tokens and dollars it would take, and stop")
    add("--price", type=parse_price, metavar="IN,OUT", help="US dollars for a million tokens of prompts, of replies")


@command
def main() -> int:
    """Read the arguments, score."""
    given = vars(arguments().parse_args())
    judge, model, base_url = given["judge"], given.pop("judge_model"), given.pop("base_url")
    if (model or base_url) and judge.name not in SERVED:
        raise BadInput(f"--judge {judge.name} is no model: --judge_model and --base_url have no meaning for it")
    given["judge"] = replace(judge, model=model or judge.model, base_url=base_url or judge.base_url)
    given["judges"] = {metric: given.pop(f"{metric}_judge") for metric in METRICS}
    return score(Options(**given))


def hide_key() -> None:
    """Start again with the key in the environment: what stands on a command line is in everybody's process list."""
    for place, word in enumerate(sys.argv):
        if word.startswith("--api_key="):
            key, rest = word.partition("=")[2], sys.argv[:place] + sys.argv[place + 1 :]
        elif word == "--api_key" and place + 1 < len(sys.argv):
            key, rest = sys.argv[place + 1], sys.argv[:place] + sys.argv[place + 2 :]
        else:
            continue
        os.execve(sys.executable, [sys.executable, *rest], os.environ | {"OPENAI_API_KEY": key})


if __name__ == "__main__":
    hide_key()
    main()
