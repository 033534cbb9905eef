"""Was it really forgotten? One adapter and its controls, attacked, relearned, rounded, scaled, and looked into.

  python audit.py --checkpoint_path ADAPTER --judge rules
  python audit.py inside,relearn --checkpoint_path ADAPTER ...       (or attacks, modality, quantize, sampling, scale)
  bash scripts/audit.bash --checkpoint_path ADAPTER ...              (on every GPU, then the report)

Leaves ADAPTER/audit.json, which the report shows, and each point's predictions and verdicts in ADAPTER/audit/; those of
the controls in controls/ beside ADAPTER, for all audits with the same settings. Stopped at any moment, the same command
goes on; started several times at once, the points are shared out. Exit code 3: some points could not be measured whole,
as listed.
"""

import logging
import signal
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from safeeraser.arguments import Arguments, count, count_or, several
from safeeraser.benchmark.files import trained_settings
from safeeraser.errors import BadInput, command, nearest
from safeeraser.infer.options import BATCH_SIZE, DECODE
from safeeraser.judge.judging import FORMS, calls, hide_key, judges, make_judging
from safeeraser.score.options import statistics

ACTIONS = ("all", "attacks", "inside", "modality", "quantize", "relearn", "sampling", "scale")


def parse() -> Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)
    subject(parser.add_argument)
    asked(parser.add_argument_group("what is asked").add_argument)
    controls(parser.add_argument_group("controls").add_argument)
    relearning(parser.add_argument_group("relearning").add_argument)
    group = parser.add_argument_group("judges", FORMS)
    judges(group.add_argument)
    statistics(group.add_argument)
    calls(parser.add_argument_group("calls").add_argument)
    return parser.parse_args()


def subject(add: Callable) -> None:
    """What is audited."""
    says = f"one or several, with commas between: {', '.join(ACTIONS)} (default: all)"
    add("actions", nargs="?", type=several("action", ACTIONS), default=("all",), help=says)
    add("--checkpoint_path", type=Path, required=True, metavar="ADAPTER", help="the adapter, a PEFT folder")
    add("--model_path", help="its base model (default: the one that the adapter's folder names)")
    add("--allow_other_base", action="store_true", help="also if it was trained on other weights than that model's")
    add("--dry_run", action="store_true", help="print how much it would take, and stop")


def controls(add: Callable) -> None:
    """What is asked the same, beside the adapter and the untouched model."""
    add(
        "--tuned",
        type=Path,
        metavar="ADAPTER",
        help="what fine-tuning alone does: an adapter of forget_loss=none or none+pd (default: none+pd beside ADAPTER)",
    )
    add(
        "--never_knew",
        metavar="MODEL",
        help="a model that was trained without what is to be forgotten (default: never_knew beside the base model)",
    )
    add("--controls", type=Path, metavar="FOLDER", help="where their points lie (default: controls beside ADAPTER)")


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
        default=30,
        metavar="N",
        help="records of each category, drawn from all keywords alike, after those held out; all: no limit (default: "
        "%(default)s)",
    )
    add("--attacks", type=several("attack"), metavar="NAMES", help="those of docs/inference.md alone (default: all)")
    add(
        "--samples",
        type=count,
        default=1,
        metavar="N",
        help="of each harmful question, but for those drawn at several temperatures (default: %(default)s)",
    )
    add("--max_new_tokens", type=count, default=512, metavar="N", help="tokens a response (default: %(default)s)")
    add("--seed", type=int, default=233, help="of responses, attacks and relearning (default: %(default)s)")
    add(
        "--batch_size",
        type=count_or("auto"),
        default=BATCH_SIZE,
        metavar="N",
        help="responses at a time, as for ckpt_infer.py (default: %(default)s)",
    )
    add("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: %(default)s)")
    add("--decode", default="graph", **DECODE)


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
        "--relearn",
        type=Path,
        metavar="FILE",
        help="the protocol: rank, rate, steps, attackers, seeds (default: config/relearn.yaml)",
    )


def beside(given: Path, name: str) -> Path | None:
    """What lies beside something under a usual name, if it does."""
    usual = given.with_name(name)
    return usual if usual.is_dir() and usual != given else None


def data_files(given: Namespace) -> tuple[Path, Path]:
    """The training data and the data asked about; where not said, the adapter's own and what lies beside it."""
    trained = trained_settings(given.checkpoint_path) or {}
    train = given.train_file or Path(trained.get("data_path", "dataset/all_train.json"))
    return train, given.val_file or train.with_name("all_val.json")


def attacks_of(given: Namespace) -> tuple[str, ...]:
    """Which attacks are to be measured. Raises `BadInput` for one that is none, and where none is to be measured."""
    from safeeraser.infer.attacks import ATTACKS  # which loads torch

    known = tuple(name for name, attack in ATTACKS.items() if not attack.control)
    for name in given.attacks or ():
        if name not in known:
            raise BadInput(f"--attacks: no attack '{name}'; {nearest(name, known)}")
    if given.attacks and not {"all", "attacks"} & set(given.actions):
        raise BadInput("--attacks: of the action attacks, which is none of those that are to be done")
    return given.attacks or known


@command
def main() -> int:
    """Check the command line, then measure."""
    given = parse()
    given.checkpoint_path = given.checkpoint_path.absolute()
    train_file, val_file = data_files(given)
    if given.seed < 0:
        raise BadInput("--seed must be at least 0")
    judging = make_judging(vars(given), store_shared=True, data=val_file)
    if "replay" in {choice.name for choice in judging.choices.values()}:
        raise BadInput("the judge replay knows recorded replies alone, and an audit's responses are new")
    # Only now, since torch takes its time to load.
    from safeeraser import model as models
    from safeeraser.audit.options import Options
    from safeeraser.audit.protocol import read_protocol
    from safeeraser.audit.run import audit
    from safeeraser.generation.sampling import Generation

    # A polite kill leaves the card of what was measured, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("safeeraser.audit").setLevel(logging.INFO)
    model_path = given.model_path or models.base_of(given.checkpoint_path)
    never_knew = given.never_knew or beside(Path(model_path), "never_knew")
    return audit(
        Options(
            checkpoint_path=given.checkpoint_path,
            model_path=model_path,
            tuned=given.tuned or beside(given.checkpoint_path, "none+pd"),
            never_knew=str(never_knew) if never_knew else None,
            controls=given.controls or given.checkpoint_path.with_name("controls"),
            train_file=train_file,
            val_file=val_file,
            limit=given.limit,
            held_out=given.held_out,
            samples=given.samples,
            protocol=read_protocol(given.relearn),
            generation=Generation(max_new_tokens=given.max_new_tokens, seed=given.seed),
            batch_size=given.batch_size,
            dtype=given.dtype,
            decode=given.decode,
            allow_other_base=given.allow_other_base,
            judging=judging,
            max_failed=given.max_failed,
            max_blank=given.max_blank,
        ),
        given.actions,
        attacks_of(given),
        dry_run=given.dry_run,
    )


if __name__ == "__main__":
    hide_key()
    main()
