"""Score a predictions file: ASR, RR, SARR, ROUGE-L and GPT-Eval.

  python eval_all.py --api_key KEY --input_file predictions.json --file_refer dataset/all_val.json \\
      --output_file_rr results/verdicts.json --summary results/summary_val.json
  python eval_all.py --judge rules --input_file ... --file_refer ... --output_file_rr ...      (offline, no key)

Writes the verdicts beside the responses to --output_file_rr, and the release's statistics beside it, as .txt.
"""

from pathlib import Path

from safeeraser.arguments import Arguments, count, one_of
from safeeraser.errors import command
from safeeraser.score.judges import JUDGES
from safeeraser.score.run import PROTOCOLS, SPLITS, Options, score


def arguments() -> Arguments:
    """The command line of this script."""
    parser = Arguments(description=__doc__)
    add = parser.add_argument
    add("--input_file", type=Path, required=True, help="the predictions: the data file's list with the responses in it")
    add(
        "--file_refer",
        type=Path,
        required=True,
        help="the data file the predictions were made on; its texts are the reference",
    )
    add("--output_file_rr", type=Path, required=True, help="where the verdicts go; the statistics go beside it as .txt")
    add("--summary", type=Path, help="also write one summary object here, as the report reads it")
    add(
        "--judge",
        type=one_of("judge", JUDGES),
        default="gpt-4o",
        help="gpt-4o, rules (offline) or replay (default: %(default)s)",
    )
    add("--api_key", help="key for the judge gpt-4o (default: the environment's OPENAI_API_KEY)")
    add("--judge_model", default="gpt-4o", help="model the judge gpt-4o asks for (default: %(default)s)")
    add("--base_url", help="address of another server that speaks the OpenAI protocol")
    add("--concurrency", type=count, default=16, help="calls at a time (default: %(default)s)")
    add("--replies", type=Path, help="recorded replies, for --judge replay")
    add("--save_replies", type=Path, help="record the judge's raw replies here")
    add(
        "--protocol",
        type=one_of("protocol", PROTOCOLS),
        default="official",
        help="official: the release's statistics; corrected: failed and unreadable replies left out, records paired by "
        "picture, GPT-Eval's two texts in their places (default: %(default)s)",
    )
    add("--split", type=one_of("split", SPLITS), help="train or val (default: told by the name of --file_refer)")
    add("--category", default="all", help="score one category alone (default: %(default)s)")
    return parser


@command
def main() -> None:
    """Read the arguments, score."""
    score(Options(**vars(arguments().parse_args())))


if __name__ == "__main__":
    main()
