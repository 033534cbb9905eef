"""What a model knows beyond what it says: measured in its probabilities and states, without a judge and without chance.

`MEASURES` holds the measures by name, those of every file in this folder; each names the work it is taken from.
"""

import hashlib
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from safeeraser.audit.inside.measure import MEASURES, measured, passes, quantity
from safeeraser.audit.inside.pairs import Pair, floor, read_pairs
from safeeraser.benchmark.sources import files_code

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # which makes its measure known

# The version of these measures: it changes with any code here.
CODE = hashlib.sha256(files_code(*sorted(Path(__file__).parent.glob("*.py"))).encode()).hexdigest()[:12]

__all__ = [
    "CODE",
    "MEASURES",
    "Pair",
    "floor",
    "measured",
    "passes",
    "quantity",
    "read_pairs",
]
