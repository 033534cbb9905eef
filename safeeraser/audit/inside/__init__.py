"""What a model knows beyond what it says: measured in its probabilities and states, without a judge and without chance."""

from safeeraser.audit.inside.pairs import Pair, floor, read_pairs

__all__ = ["Pair", "floor", "read_pairs"]
