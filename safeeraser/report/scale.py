"""The page's one colour scale, from better to worse: whatever is coloured anywhere is coloured by how good it is."""

from typing import NamedTuple

import matplotlib as mpl
from matplotlib.colors import to_hex

from safeeraser.benchmark.metrics import Figure

_MAP = mpl.colormaps["cividis"]  # looks the same to the colour-blind, and brightens evenly in grey: worse is brighter
_MIDDLE = 0.468  # there it stands out from black as much as from white


class Shade(NamedTuple):
    """A colour, and black or white: whichever stands out more on it, by 4.5 to 1."""

    paper: str
    ink: str


def shade(figure: Figure, better: str) -> Shade | None:
    """The figure's colour, where there is a figure that stands; `better`: whether `lower` or `higher` is."""
    if figure.value is None or figure.withheld:
        return None
    worse = figure.value if better == "lower" else 1 - figure.value
    return Shade(to_hex(_MAP(worse)), "#000" if worse > _MIDDLE else "#fff")


def gradient() -> str:
    """The colours from better to worse as a CSS gradient, for the legend."""
    return f"linear-gradient(to right, {', '.join(to_hex(_MAP(step / 8)) for step in range(9))})"
