"""SafeEraser: safety unlearning for multimodal LLMs, with LoRA, through prompt-decoupled losses.

`unlearn`, `infer` and `score` do what the three scripts do. Each function has the name of a subpackage, whose modules
are still imported as usual: `from safeeraser.unlearn.objective.method import Method`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

# Import the subpackages before the functions are defined: a later first import would replace a function by its module.
import safeeraser.infer
import safeeraser.score
import safeeraser.unlearn  # noqa: F401
from safeeraser.benchmark.origin import VERSION

if TYPE_CHECKING:
    from safeeraser.infer.run import Inferred
    from safeeraser.score.run import Scored
    from safeeraser.unlearn.run import Unlearned

# PEFT imports bitsandbytes wherever it is installed. On a CPU it then warns about a kernel that would only be faster.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = VERSION


def unlearn(page: str = "forget_lora", **keys: Any) -> Unlearned | None:
    """Unlearn as `forget.py` does: `unlearn(forget_loss="popd", save_dir="results/popd", LoRA={"r": 8})`.

    Args:
        page: the name of the config file in config/ that supplies every key not given here.
        keys: keys of config/forget_lora.yaml. A dict sets some of a key's own keys. A group, such as `forget_loss`,
            takes the name of a file, or a dict with the content of one.

    Returns:
        The run, also if an earlier call had finished it; None from a dry run, which leaves nothing. With `push_to_hub`
        a finished run has been sent to the hub, or its `not_sent` gives the reason why not.

    Raises:
        BadInput: a setting or an input file cannot be used. This is found before `save_dir` is touched.
    """
    from safeeraser.publish import unlearn_and_publish  # imported late, here and below: torch loads slowly
    from safeeraser.unlearn.config.compose import from_keys
    from safeeraser.unlearn.config.read import read_settings

    return unlearn_and_publish(read_settings(from_keys(keys, page)))


def infer(**options: Any) -> Inferred:
    """Answer the benchmark's questions as `ckpt_infer.py` does: `infer(checkpoint_path=..., output_file=...)`.

    Args:
        options: as in `ckpt_infer.py --help`, without dashes. A flag is True; lists and dicts are taken as such.

    Returns:
        The path of the predictions, the number of responses wanted, and the reason for each missing one.

    Raises:
        BadInput: an option or a file cannot be used, or the disk or the memory is full. Finished responses are kept.
    """
    from safeeraser.infer.options import arguments, options_of
    from safeeraser.infer.run import infer

    return infer(options_of(arguments().keywords(options)))


def score(**options: Any) -> Scored | None:
    """Score as `eval_all.py` does: `score(input_file="predictions.json", file_refer="all_val.json", judge="rules")`.

    Args:
        options: as in `eval_all.py --help`, without dashes. A flag is True; lists and dicts are taken as such.

    Returns:
        The figures, and the withheld ones by the bound that they exceed; None with `dry_run`. With `check_judge`: the
        judge's accuracy on each metric.

    Raises:
        BadInput: an option or a file cannot be used. Nothing is written then, but replies that were paid for are kept.
    """
    from safeeraser.score.options import arguments
    from safeeraser.score.run import run

    return run(vars(arguments().keywords(options)))
