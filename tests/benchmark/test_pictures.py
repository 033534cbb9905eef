"""Where a picture is looked for, and what is said of one that is missing or damaged."""

import struct
import zlib

import pytest
from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.errors import BadInput


def picture(path, colour="red", mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (3, 2), colour).save(path)
    return path


def test_the_three_places_in_their_order(tmp_path, monkeypatch):
    """Working directory, then the data file's folder, then that folder's parent."""
    monkeypatch.chdir(picture(tmp_path / "here" / "img" / "1.jpg").parents[1])
    beside = picture(tmp_path / "there" / "dataset" / "img" / "1.jpg")
    above = picture(tmp_path / "there" / "img" / "1.jpg")
    data_path = tmp_path / "there" / "dataset" / "all_train.json"

    def found():
        path = find_picture("img/1.jpg", data_path)
        return path and path.resolve()

    assert found() == tmp_path / "here" / "img" / "1.jpg"
    (tmp_path / "here" / "img" / "1.jpg").unlink()
    assert found() == beside
    beside.unlink()
    assert found() == above
    above.unlink()
    assert found() is None


def test_a_folder_of_that_name_is_no_picture(tmp_path):
    (tmp_path / "img" / "1.jpg").mkdir(parents=True)
    assert find_picture("img/1.jpg", tmp_path / "all_train.json") is None


@pytest.mark.parametrize("name", ["n" * 300 + ".jpg", "abcd/" * 1000 + "1.jpg", "nul\0.jpg"])
def test_a_name_that_no_disk_can_hold_is_no_picture(tmp_path, name):
    assert find_picture(name, tmp_path / "all_train.json") is None
    with pytest.raises(BadInput, match="picture cannot be decoded"):
        open_picture(tmp_path / name)


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGBA", (1, 2, 3, 4)), ("P", 0), ("CMYK", (1, 2, 3, 4))])
def test_every_mode_becomes_rgb(tmp_path, mode, colour):
    path = picture(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), colour, mode)
    assert open_picture(path).mode == "RGB" and open_picture(path).size == (3, 2)


def shown(path):
    """The pixels that the model is shown, row by row."""
    rgb = open_picture(path)
    assert rgb.mode == "RGB"
    return [rgb.getpixel((x, y)) for y in range(rgb.height) for x in range(rgb.width)]


def grey(values, mode):
    wide = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        wide.putpixel((x, 0), value)
    return wide


@pytest.mark.parametrize(
    ("mode", "name"), [("I;16", "x.png"), ("I;16", "x.tif"), ("I;16B", "x.tif"), ("I", "x.tif"), ("I;16", "x.pgm")]
)
def test_16_bits_keep_their_shades(tmp_path, mode, name):
    grey([0, 255, 256, 32768, 40000, 65535], mode).save(tmp_path / name)
    assert shown(tmp_path / name) == [(level,) * 3 for level in (0, 0, 1, 128, 156, 255)]


def png(path, width, depth, kind, *data):
    """A PNG of one row, written by hand: Pillow writes neither 16-bit colours nor what is broken."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0)), *data, (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + name + c + struct.pack(">I", zlib.crc32(name + c)) for name, c in parts]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def test_grey_and_colour_in_16_bits_are_the_same_shade(tmp_path):
    colour = b"\0" + struct.pack(">3H", 40000, 255, 65535)
    colour = png(tmp_path / "x.png", 1, 16, 2, (b"IDAT", zlib.compress(colour)))
    grey([40000, 255, 65535], "I;16").save(tmp_path / "grey.png")
    assert shown(colour) == [tuple(level for level, _, _ in shown(tmp_path / "grey.png"))]


# Ink as it is printed, and its colour on paper. Photoshop's JPEGs hold the inks inverted, as Pillow writes them too.
INKS = {
    (255, 0, 0, 0): (0, 255, 255),
    (0, 255, 0, 0): (255, 0, 255),
    (0, 0, 255, 0): (255, 255, 0),
    (0, 0, 0, 255): (0, 0, 0),
    (0, 0, 0, 0): (255, 255, 255),
    (0, 255, 255, 0): (255, 0, 0),
    (0, 0, 0, 127): (128, 128, 128),
}


@pytest.mark.parametrize("name", ["x.tif", "x.jpg"])
@pytest.mark.parametrize(("ink", "colour"), INKS.items())
def test_inks_become_the_colours_they_print(tmp_path, name, ink, colour):
    Image.new("CMYK", (8, 8), ink).save(tmp_path / name, quality=100)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == "CMYK" and ("adobe" in stored.info) == (name == "x.jpg")
    assert set(shown(tmp_path / name)) == {colour}


def test_what_is_transparent_is_shown_on_white(tmp_path):
    """In each way that a file can say so, whatever colour lies beneath."""
    picture(tmp_path / "rgba.png", (200, 0, 0, 0), "RGBA")
    picture(tmp_path / "la.png", (10, 0), "LA")
    for name, transparent in (("palette.png", b"\xff\x00"), ("index.png", 1), ("index.gif", 1)):
        palette = Image.new("P", (3, 2), 1)
        palette.putpalette([0, 0, 0, 10, 20, 30])
        palette.save(tmp_path / name, transparency=transparent)
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    for path in tmp_path.iterdir():
        assert set(shown(path)) == {(255, 255, 255)}, path.name
    picture(tmp_path / "half.png", (200, 0, 100, 51), "RGBA")  # a fifth of it
    assert set(shown(tmp_path / "half.png")) == {(244, 204, 224)}


def test_a_palette_with_a_transparent_entry_keeps_its_other_colours(tmp_path):
    palette = Image.new("P", (3, 1))
    palette.putdata([0, 1, 2])
    palette.putpalette([9, 8, 7, 10, 20, 30, 200, 100, 50])
    palette.save(tmp_path / "x.png", transparency=b"\xff\x00\xff")
    assert shown(tmp_path / "x.png") == [(9, 8, 7), (255, 255, 255), (200, 100, 50)]


@pytest.mark.parametrize(("mode", "name"), [("RGB", "x.png"), ("L", "x.png"), ("P", "x.png"), ("RGB", "x.jpg")])
def test_an_opaque_picture_is_what_pillow_makes_of_it(tmp_path, mode, name):
    Image.effect_noise((16, 16), 90).convert(mode).save(tmp_path / name)
    with Image.open(tmp_path / name) as plain:
        assert open_picture(tmp_path / name).tobytes() == plain.convert("RGB").tobytes()


@pytest.mark.parametrize(("mode", "colour"), [("F", 0.5), ("I", 1 << 20)])
def test_a_picture_whose_scale_is_not_known_is_refused(tmp_path, mode, colour):
    Image.new(mode, (2, 2), colour).save(tmp_path / "x.tif")
    with pytest.raises(BadInput, match="picture cannot be decoded"):
        open_picture(tmp_path / "x.tif")


def test_a_turn_by_exif_is_not_made(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (3, 2)).save(tmp_path / "x.jpg", exif=exif)
    assert open_picture(tmp_path / "x.jpg").size == (3, 2)


def test_a_broken_chunk_is_named(tmp_path):
    """Pillow raises a `SyntaxError` then."""
    rows = zlib.compress(b"\0" + bytes(range(256)) * 3, 0)
    path = png(tmp_path / "x.png", 256, 8, 2, (b"IDAT", rows[:400]), (b"\1\2\3\4", rows[400:]))
    with pytest.raises(BadInput, match=r"x\.png: picture cannot be decoded \(SyntaxError\)"):
        open_picture(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", "cut"])
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path, content):
    path = tmp_path / "x.jpg"
    if content == "cut":
        Image.effect_noise((64, 64), 50).save(path)
        content = path.read_bytes()[:-500]
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.jpg: picture cannot be decoded"):
        open_picture(path)
