"""Attacks on the picture alone: ordinary changes, under which a picture stays what it is to a person.

Blur, JPEG and noise follow the corruptions of Hendrycks and Dietterich (2019, arXiv 1903.12261), at their severity 3 of
5; lengths there are for 224 pixels and grow with the picture.
"""

import io

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageFilter, ImageOps

from safeeraser.infer.attacks.attack import on_picture

REFERENCE = 224  # pixels of the shorter side
BLUR = 3  # pixels at `REFERENCE`, the Gaussian's standard deviation
JPEG = 15  # quality, 1..95
NOISE = 0.18  # standard deviation, of the range 0..1
CROP = 0.7  # of each side


@on_picture
def blur(picture: Image.Image, random: Generator) -> Image.Image:
    """Gaussian blur (arXiv 1903.12261)."""
    return picture.filter(ImageFilter.GaussianBlur(BLUR * min(picture.size) / REFERENCE))


@on_picture
def crop(picture: Image.Image, random: Generator) -> Image.Image:
    """A window of 0.7 of each side, somewhere, at the old size (as in training by Krizhevsky et al., 2012)."""
    width, height = (max(1, round(CROP * side)) for side in picture.size)
    left = int(random.integers(picture.width - width + 1))
    top = int(random.integers(picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height)).resize(picture.size, Image.Resampling.BICUBIC)


@on_picture
def flip(picture: Image.Image, random: Generator) -> Image.Image:
    """Left and right exchanged (as in training by Krizhevsky et al., 2012)."""
    return ImageOps.mirror(picture)


@on_picture
def jpeg(picture: Image.Image, random: Generator) -> Image.Image:
    """JPEG at a low quality (arXiv 1903.12261)."""
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=JPEG)
    return Image.open(stored).convert("RGB")


@on_picture
def noise(picture: Image.Image, random: Generator) -> Image.Image:
    """Gaussian noise on each pixel and colour (arXiv 1903.12261)."""
    values = np.asarray(picture, dtype=np.float32) / 255
    values = values + random.normal(0, NOISE, values.shape).astype(np.float32)
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))
