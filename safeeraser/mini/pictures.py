"""Pictures of the mini benchmark: one glyph of the Material Design Icons font on a plain background.

`icons/` holds the glyphs that are drawn, and their licence.
"""

import functools
import json
import random
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from safeeraser.mini.concepts import BACKGROUNDS, COLOURS, SIDES, SIZES, Concept

SIDE = 64  # units along a picture's edge; a unit is a pixel in a picture of 64 pixels
GLYPH_UNITS = {"small": (38, 40), "large": (50, 52)}
ANGLES = range(-10, 11, 5)
ACROSS = (5, 8)  # units from the middle to the glyph's centre, to the left or right
UP_DOWN = 4  # and at most this many units up or down
ICONS = tuple(Path(__file__).with_name("icons") / name for name in ("icons.ttf", "icons.json"))
JITTER = 8  # how far a colour channel strays from the named colour

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """Everything that decides a picture except its size in pixels: the facts that questions ask about, and other
    details. `units` is the glyph's size and `centre` its position, on a square of `SIDE` units."""

    concept: Concept
    colour: str
    background: str
    side: str
    size: str
    units: int
    angle: int
    centre: tuple[int, int]
    paint: Colour
    ground: Colour


def draw_scene(rng: random.Random, concept: Concept) -> Scene:
    """Choose a scene of `concept` at random. The two sides and the two sizes differ enough to be distinguished."""
    colour, background = rng.choice(list(COLOURS)), rng.choice(list(BACKGROUNDS))
    side, size = rng.choice(SIDES), rng.choice(SIZES)
    units = rng.choice(GLYPH_UNITS[size])
    across = rng.randint(*ACROSS)
    return Scene(
        concept=concept,
        colour=colour,
        background=background,
        side=side,
        size=size,
        units=units,
        angle=rng.choice(ANGLES),
        centre=(SIDE // 2 + (across if side == "right" else -across), SIDE // 2 + rng.randint(-UP_DOWN, UP_DOWN)),
        paint=_jitter(rng, COLOURS[colour]),
        ground=_jitter(rng, BACKGROUNDS[background]),
    )


def render(scene: Scene, side: int) -> Image.Image:
    """The picture of a scene: RGB, `side` x `side` pixels."""
    mask = _glyph_mask(scene.concept.glyph, scene.units * side // SIDE, scene.angle)
    picture = Image.new("RGB", (side, side), scene.ground)
    across, down = (place * side // SIDE for place in scene.centre)
    picture.paste(Image.new("RGB", mask.size, scene.paint), (across - mask.width // 2, down - mask.height // 2), mask)
    return picture


@functools.cache
def glyph_table() -> dict[str, str]:
    """Each glyph's character in the font, by the glyph's name."""
    return {name: chr(int(code, 16)) for name, code in json.loads(ICONS[1].read_text()).items()}


@functools.cache
def _font(pixels: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(ICONS[0]), pixels)


# Cached, because base training draws tens of thousands of pictures from about 700 masks.
@functools.cache
def _glyph_mask(glyph: str, pixels: int, angle: int) -> Image.Image:
    mask = Image.new("L", (pixels, pixels), 0)
    ImageDraw.Draw(mask).text((pixels / 2, pixels / 2), glyph_table()[glyph], font=_font(pixels), fill=255, anchor="mm")
    return mask.rotate(angle, resample=Image.Resampling.BICUBIC, expand=True)


def _jitter(rng: random.Random, colour: Colour) -> Colour:
    red, green, blue = (min(255, max(0, channel + rng.randint(-JITTER, JITTER))) for channel in colour)
    return red, green, blue
