"""Attacks at inference: what is done to a request before it is asked, to see whether the model still holds.

`ATTACKS` holds them by name. Their texts are this project's own; each names the work whose idea it takes.
"""

from safeeraser.infer.attacks import pictures, prompts, typography  # noqa: F401 (each makes its attacks known)
from safeeraser.infer.attacks.attack import ATTACKS, Attack, Attacked, chance

__all__ = ["ATTACKS", "Attack", "Attacked", "chance"]
