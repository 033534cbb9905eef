"""How a matplotlib figure becomes a part of the page: in its text colour, described in words, its ids its own."""

import io
import re
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import matplotlib as mpl
from matplotlib.figure import Figure

from safeeraser.benchmark.files import write_whole

INK = "#1a1b1c"  # text and axes; in a page it becomes the page's own text colour
SIZE = (4.8, 3.6)  # inches: legible when scaled down to a phone
STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}
# Colour says how good something is, here nothing: curves are told apart by these.
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKS = "os^Dvx"


def drawing(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, whose parts find room beside each other by themselves."""
    return Figure(figsize=(width, height), layout="constrained")


def slug(name: str) -> str:
    """A name with nothing in it that a file's name or an id could not hold."""
    return quote(name, safe="").replace("%", ".")


@dataclass(frozen=True)
class Plot:
    """A figure named for its file, with its caption, and what it shows in words, for those who cannot see it."""

    name: str
    caption: str
    description: str
    figure: Figure

    @property
    def slug(self) -> str:
        """The name with nothing in it that a file's name or an id could not hold."""
        return slug(self.name)

    def svg(self) -> str:
        """The figure as an SVG element to stand in a page: takes its text colour, describes itself, ids its own."""
        text = io.StringIO()
        with mpl.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        svg = text.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.slug}-", svg)
        box = svg.partition('viewBox="')[2].partition('"')[0]
        opening = f'<svg viewBox="{box}" role="img" aria-label="{escape(self.description)}" xmlns="http://www.w3.org/2000/svg"'
        return f'{opening} xmlns:xlink="http://www.w3.org/1999/xlink">{svg[svg.index(">") + 1 :]}'

    def write_png(self, folder: Path) -> None:
        """Write the figure as `<slug>.png`, on white."""
        with write_whole(folder / f"{self.slug}.png", "wb") as handle:
            self.figure.savefig(handle, format="png", dpi=150, facecolor="white", metadata={"Software": None})
