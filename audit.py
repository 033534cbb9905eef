"""Was it really forgotten? Attacks, relearning, rounding, scaling, and what refusal hangs on, of one adapter.

  python audit.py --checkpoint_path ADAPTER --judge rules
  python audit.py relearn --checkpoint_path ADAPTER ...      (or attacks, quantize, scale, modality)
  bash scripts/audit.bash --checkpoint_path ADAPTER ...      (on every GPU there is, then the report)

Leaves ADAPTER/audit.json, which the report shows, and each point's predictions and verdicts in ADAPTER/audit/. Stopped
at any moment, the same command goes on; started several times at once, the points are shared out. Exit code 3: some
points could not be measured whole, as listed.
"""

import logging
import math
import signal
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path

from safeeraser.arguments import Arguments, count, count_or, one_of
from safeeraser.benchmark.files import trained_settings
from safeeraser.errors import BadInput, command
from safeeraser.judge.command_line import FORMS, calls, chosen, hide_key, judges
from safeeraser.score.options import statistics

ACTIONS = ("all", "attacks", "relearn", "quantize", "scale", "modality")


def parse() -> Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    subject(parser.add_argument)
    asked(parser.add_argument_group("what is asked").add_argument)
    relearning(parser.add_argument_group("relearning").add_argument)
    group = parser.add_argument_group("judges", FORMS)
    judges(group.add_argument)
    statistics(group.add_argument)
    calls(parser.add_argument_group("calls").add_argument)
    return parser.parse_args()


def subject(add: Callable) -> None:
    """What is audited."""
    add("action", nargs="?", type=one_of("action", ACTIONS), default="all", help=f"{', '.join(ACTIONS)} (default: all)")
    add("--checkpoint_path", type=Path, required=True, metavar="ADAPTER", help="the adapter, a PEFT folder")
    add("--model_path", help="its base model (default: the one that the adapter's folder names)")
    add("--allow_other_base", action="store_true", help="also if it was trained on other weights than that model's")
    add("--dry_run", action="store_true", help="print how many responses it would take, and stop")


def asked(add: Callable) -> None:
    """Which responses, and how they are drawn."""
    add(
        "--val_file",
        type=Path,
        help="the data file whose questions are asked (default: all_val.json beside the training data)",
    )
    add(
        "--limit",
        type=count_or("all"),
        default=10,
        metavar="N",
        help="records of each category, after those held out; all: no limit (default: %(default)s)",
    )
    add("--max_new_tokens", type=count, default=512, metavar="N", help="tokens a response (default: %(default)s)")
    add("--seed", type=int, default=233, help="of responses, attacks and relearning (default: %(default)s)")
    add(
        "--batch_size",
        type=count_or("auto"),
        default="auto",
        metavar="N",
        help="responses at a time, which changes none (default: %(default)s)",
    )
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: %(default)s)")


def relearning(add: Callable) -> None:
    """How the adapter is trained on."""
    add("--train_file", type=Path, help="the benign pairs (default: the data that the adapter was trained on)")
    add(
        "--held_out",
        type=count,
        default=1,
        metavar="N",
        help="the first harmful records of each category of --val_file, which are trained on and not asked about "
        "(default: %(default)s)",
    )
    add(
        "--steps",
        type=steps,
        default=(1, 2, 4, 8, 16, 32, 64),
        metavar="N,...",
        help="optimizer steps after which the adapter is measured (default: 1,2,4,8,16,32,64)",
    )
    add("--relearn_lr", type=float, metavar="LR", help="(default: the adapter's own)")


def steps(text: str) -> tuple[int, ...]:
    """Whole numbers of at least 1, with commas between."""
    try:
        return tuple(sorted({count(word) for word in text.split(",")}))
    except ArgumentTypeError:
        raise ArgumentTypeError("must be whole numbers of at least 1, with commas between") from None


def data_files(given: Namespace) -> tuple[Path, Path]:
    """The training data and the data asked about; where not said, the adapter's own and what lies beside it."""
    trained = trained_settings(given.checkpoint_path) or {}
    train = given.train_file or Path(trained.get("data_path", "dataset/all_train.json"))
    return train, given.val_file or train.with_name("all_val.json")


@command
def main() -> int:
    """Check the command line, then measure."""
    given = parse()
    train_file, val_file = data_files(given)
    if given.relearn_lr is not None and not 0 < given.relearn_lr < math.inf:
        raise BadInput("--relearn_lr must be above 0, and a finite number")
    if given.seed < 0:
        raise BadInput("--seed must be at least 0")
    judging = chosen(vars(given), store_shared=True, data=val_file)
    if "replay" in {choice.name for choice in judging.choices.values()}:
        raise BadInput("the judge replay knows recorded replies alone, and an audit's responses are new")
    # Only now, since torch takes its time to load.
    from safeeraser import model as models
    from safeeraser.audit.options import Options
    from safeeraser.audit.run import audit
    from safeeraser.generation.sampling import Generation

    # A polite kill leaves the card of what was measured, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("safeeraser.audit").setLevel(logging.INFO)
    return audit(
        Options(
            checkpoint_path=given.checkpoint_path,
            model_path=given.model_path or models.base_of(given.checkpoint_path),
            train_file=train_file,
            val_file=val_file,
            limit=given.limit,
            held_out=given.held_out,
            steps=given.steps,
            relearn_lr=given.relearn_lr,
            generation=Generation(max_new_tokens=given.max_new_tokens, seed=given.seed),
            batch_size=given.batch_size,
            dtype=given.dtype,
            allow_other_base=given.allow_other_base,
            judging=judging,
            max_failed=given.max_failed,
            max_blank=given.max_blank,
        ),
        given.action,
        dry_run=given.dry_run,
    )


if __name__ == "__main__":
    hide_key()
    main()
