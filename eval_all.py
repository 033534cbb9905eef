"""Score a predictions file: ASR, RR, SARR, ROUGE-L and GPT-Eval.

  OPENAI_API_KEY=... python eval_all.py --input_file predictions.json --file_refer dataset/all_val.json \\
      --output_file_rr results/verdicts.json --summary results/summary_val.json
  python eval_all.py --judge rules --input_file ...                                            (offline, no key)
  python eval_all.py --judge qwen3guard --base_url http://localhost:8000/v1 --sarr_judge rules --input_file ...
  python eval_all.py --check_judge --judge ...              (docs/guides/score-and-judge.md; --label_sheet, --agree)

Writes the responses with their verdicts to --output_file_rr, and the release's statistics next to that file, as .txt.
Every reply is kept in --store: after a stop at any moment, the same command pays for none twice. Exit code 3: figures
were withheld, because more replies failed than --max_failed allows or more responses are blank than --max_blank
allows; or the judge that is checked falls short of --min_accuracy.
"""

from safeeraser import score
from safeeraser.errors import command
from safeeraser.keys import hide_key
from safeeraser.score.options import arguments

INCOMPLETE = 3  # exit code: the run has finished, but figures are withheld or the judge failed its check


@command
def main() -> int:
    """Read the arguments and score."""
    scored = score(**vars(arguments(__doc__).parse_args()))
    return INCOMPLETE if scored and scored.withheld else 0


if __name__ == "__main__":
    hide_key()
    main()
