"""Put a model's own answers into a data file: `python -m safeeraser.benchmark.answers --model MODEL --out OUT.json`.

The benchmark's answers are LLaVA-1.5's. In OUT the model's answers replace them: `model_response`, `sd_response` and,
with --prediction, `Prediction`. The originals are kept as `original_...`, and `answered_by` says who answered.

Each answer is kept as soon as it is finished: after a stop at any moment, the same command resumes. Exit code 3: the
run has finished, but some answers are missing, for the reasons listed.
"""

import logging
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

from safeeraser.arguments import Arguments, add_options
from safeeraser.benchmark.answered import Place, seen_from, take_refusals_along, with_answers
from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.origin import versions
from safeeraser.benchmark.records import DataFile
from safeeraser.benchmark.responses import OWN
from safeeraser.errors import command
from safeeraser.infer.options import INCOMPLETE, Options, Responses, options_of, speak
from safeeraser.infer.requests import Request, Selection

log = logging.getLogger(__name__)

OTHERS = ["eval_file", "model_path", "output_file", "attack"]  # options of ckpt_infer.py that differ or are absent here
OTHERS += ["checkpoint_path", "loss_type", "lora_alpha", "adapter_scale", "allow_other_base"]
OTHERS += ["only", "image_free", "swap_pictures", "categories", "skip", "limit"]


def arguments() -> Arguments:
    """The options, with names of their own or with the names in ckpt_infer.py."""
    parser = Arguments(prog="python -m safeeraser.benchmark.answers", description=__doc__)
    add = parser.add_argument
    add("--model_path", "--model", required=True, help="whose answers: a folder, or a name on the Hugging Face hub")
    add(
        "--eval_file",
        "--data",
        type=Path,
        default=Path("dataset/all_train.json"),
        help="the data file whose questions are asked; it stays as it is (default: %(default)s)",
    )
    add("--output_file", "--out", type=Path, required=True, help="where the data file with the answers goes")
    add("--prediction", action="store_true", help="also the Prediction of the harmless pairs")
    add_options(parser, Options, Responses, but=OTHERS)
    return parser


def write_answers(options: Options, data: DataFile, requests: list[Request], responses: dict[str, str]) -> None:
    """Write the data file with the responses as its answers (a missing one is null), and its refusals next to it.

    Each record says who answered it: which weights, which fields, and how responses were drawn.
    """
    from safeeraser.infer.predictions import settings_of

    answers: dict[int, dict[Place, str | None]] = defaultdict(dict)
    for request in requests:
        answers[request.record][request.place] = responses.get(request.key)
    settings = settings_of(options)
    mark = {
        "model": options.model_path,
        "weights": settings.get("base"),
        "fields": list(dict.fromkeys(str(request.place[-1]) for request in requests)),
        **versions(),
        "generation": asdict(options.generation)
        | {key: settings[key] for key in ("dtype", "quantization") if key in settings},  # not reported by a server
    }
    filled = [
        with_answers(seen_from(record, data.path, options.output_file), answers[number], mark)
        for number, record in enumerate(data.raw)
    ]
    take_refusals_along(data.path, options.output_file)
    write_json(options.output_file, filled, indent=4)
    if blank := sum(not response.strip() for response in responses.values()):
        log.warning("note: %d answers are blank, which training refuses; bad_items=skip leaves them out", blank)


@command
def main() -> int:
    """Read the arguments and answer each question once."""
    given = arguments().parse_args()
    speak()
    from safeeraser.infer.run import infer  # imported late: torch loads slowly

    selection = Selection((OWN, "decoupled", *(("retain",) if given.prediction else ())))
    return INCOMPLETE if infer(options_of(given, selection), write_answers).missing else 0


if __name__ == "__main__":
    main()
