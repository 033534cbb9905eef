"""Put a model's own answers into a data file: `python -m safeeraser.benchmark.answers --model MODEL --out OUT.json`.

The benchmark's are LLaVA-1.5's. In OUT the model's stand in their places, `model_response`, `sd_response` and with
--prediction `Prediction`; what was there is kept beside them as `original_...`, and `answered_by` says who answered.

Each answer is kept as soon as it is there: stopped at any moment, the same command goes on where it was. Exit code 3:
the run is through, but some answers are missing, for the reasons listed.
"""

from safeeraser.errors import command
from safeeraser.infer.options import INCOMPLETE, answers_arguments, answers_options_of, speak


@command
def main() -> int:
    """Read the arguments, answer."""
    given = answers_arguments(__doc__).parse_args()
    speak()
    from safeeraser.infer.predictions import write_answers  # only now, since torch takes its time to load
    from safeeraser.infer.run import infer

    return INCOMPLETE if infer(answers_options_of(given), write_answers).missing else 0


if __name__ == "__main__":
    main()
