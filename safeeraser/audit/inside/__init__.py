"""What a model knows beyond what it says: measured in its probabilities and states, without a judge and without chance.

`MEASURES` holds the measures by name, those of every file in this folder; each names the work it is taken from.
"""

from importlib import import_module
from pkgutil import iter_modules

from safeeraser.audit.inside.measure import MEASURES, Measure, Quantity, Values, measured, passes, quantity
from safeeraser.audit.inside.pairs import Pair, floor, read_pairs

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")  # which makes its measure known

__all__ = ["MEASURES", "Measure", "Pair", "Quantity", "Values", "floor", "measured", "passes", "quantity", "read_pairs"]
