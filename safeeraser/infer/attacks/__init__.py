"""Attacks at inference: what is done to a request, or to the model, before it is asked, to see whether it still holds.

`ATTACKS` holds them by name, those of every file in this folder. Their texts are this project's own; each names the
work whose idea it takes.
"""

from importlib import import_module
from pkgutil import iter_modules

from safeeraser.infer.attacks.attack import ATTACKS, Attack, Attacked, Known, chance, examples

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # which makes its attacks known

__all__ = ["ATTACKS", "Attack", "Attacked", "Known", "chance", "examples"]
