"""SafeEraser: safety unlearning for multimodal LLMs, with LoRA, through prompt-decoupled losses.

Three functions do what the three scripts do: `unlearn`, `infer`, `score`. Each bears the name of the room it opens,
whose modules are reached as ever: `from safeeraser.unlearn.objective.method import Method`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

# Before the functions, since a room that is loaded later would take their names.
import safeeraser.infer
import safeeraser.score
import safeeraser.unlearn  # noqa: F401
from safeeraser.benchmark.origin import VERSION

if TYPE_CHECKING:
    from safeeraser.infer.run import Inferred
    from safeeraser.score.run import Scored
    from safeeraser.unlearn.run import Unlearned

# On a CPU it warns of a kernel that is not there and would only be faster; here, since PEFT loads it wherever it is.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = VERSION


def unlearn(page: str = "forget_lora", **keys: Any) -> Unlearned | None:
    """Unlearn as `forget.py` does: `unlearn(forget_loss="popd", save_dir="results/popd", LoRA={"r": 8})`.

    Args:
        page: the file in config/ whose keys hold where none are given.
        keys: those of config/forget_lora.yaml. A dict sets some of a key's own keys; a group, such as `forget_loss`,
            takes the name of a file or a dict of what it would hold.

    Returns:
        What the run left, also where it had been finished before; None from a dry run, which leaves nothing. With
        `push_to_hub` it is at the hub then, or `not_sent` says why it is not.

    Raises:
        BadInput: something given cannot be used. Nothing has been touched then.
    """
    from safeeraser.publish import unlearn_and_publish  # here and below: only now, since torch takes its time
    from safeeraser.unlearn.config.compose import from_keys
    from safeeraser.unlearn.config.read import read_settings

    return unlearn_and_publish(read_settings(from_keys(keys, page)))


def infer(**options: Any) -> Inferred:
    """Answer the benchmark's questions as `ckpt_infer.py` does: `infer(checkpoint_path=..., output_file=...)`.

    Args:
        options: those of `ckpt_infer.py --help`, without dashes. A flag is True; lists and dicts are taken as such.

    Returns:
        Where the predictions are, and which responses are missing, and why.

    Raises:
        BadInput: something given cannot be used, or the disk or the memory is full. What was answered is kept.
    """
    from safeeraser.infer.options import arguments, options_of
    from safeeraser.infer.run import infer

    return infer(options_of(arguments().keywords(options)))


def score(**options: Any) -> Scored | None:
    """Score as `eval_all.py` does: `score(input_file="predictions.json", file_refer="all_val.json", judge="rules")`.

    Args:
        options: those of `eval_all.py --help`, without dashes. A flag is True; lists and dicts are taken as such.

    Returns:
        The figures, and those withheld for lack of good replies; None with `dry_run`. With `check_judge` how the judge
        did, metric by metric.

    Raises:
        BadInput: something given cannot be used. Nothing is written then, but replies that were paid for are kept.
    """
    from safeeraser.score.options import arguments
    from safeeraser.score.run import run

    return run(vars(arguments().keywords(options)))
