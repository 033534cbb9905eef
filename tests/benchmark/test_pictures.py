"""Where a picture is searched for, how the model sees it, and the errors for missing and damaged pictures.

A check decodes each picture once. The tests observe this from outside: if a file is spoiled but keeps its size and
time, the check finds the fault only if it decodes the file again.
"""

import os

import pytest
from helpers import record, write_dataset
from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture, picture_size, unreadable
from safeeraser.errors import BadInput


def test_the_three_places_in_their_order(tmp_path, monkeypatch):
    """The working directory, then the data file's folder, then the parent of that folder. A folder is no picture."""
    data = tmp_path / "there" / "dataset" / "all_train.json"
    places = [tmp_path / "here", data.parent, data.parent.parent]
    for folder in places:
        (folder / "img").mkdir(parents=True)
        Image.new("RGB", (3, 2)).save(folder / "img" / "1.jpg")
    monkeypatch.chdir(tmp_path / "here")
    for folder in places:
        assert find_picture("img/1.jpg", data).resolve() == folder / "img" / "1.jpg"
        (folder / "img" / "1.jpg").unlink()
    (data.parent / "img" / "1.jpg").mkdir()
    assert find_picture("img/1.jpg", data) is None
    assert find_picture("n" * 300 + ".jpg", data) is None and find_picture("nul\0.jpg", data) is None


def shown(path):
    """The pixels that the model is shown, row by row."""
    rgb = open_picture(path)
    assert rgb.mode == "RGB" and picture_size(path) == rgb.size
    return [rgb.getpixel((x, y)) for y in range(rgb.height) for x in range(rgb.width)]


def test_what_is_transparent_is_shown_on_white(tmp_path):
    """For each way in which a file can mark transparency, with any colour beneath."""
    Image.new("RGBA", (3, 2), (200, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (3, 2), (10, 0)).save(tmp_path / "la.png")
    for name, transparent in (("palette.png", b"\xff\x00"), ("index.png", 1), ("index.gif", 1)):
        palette = Image.new("P", (3, 2), 1)
        palette.putpalette([0, 0, 0, 10, 20, 30])
        palette.save(tmp_path / name, transparency=transparent)
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "rgb.png", transparency=(1, 2, 3))
    for path in tmp_path.iterdir():
        assert set(shown(path)) == {(255, 255, 255)}, path.name
    Image.new("RGBA", (3, 2), (200, 0, 100, 51)).save(tmp_path / "half.png")  # one fifth opaque
    assert set(shown(tmp_path / "half.png")) == {(244, 204, 224)}


@pytest.mark.parametrize(("mode", "name"), [("RGB", "x.png"), ("L", "x.png"), ("P", "x.png"), ("RGB", "x.jpg")])
def test_an_opaque_picture_is_what_pillow_makes_of_it(tmp_path, mode, name):
    """A rotation by EXIF data is not applied."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.effect_noise((16, 8), 90).convert(mode).save(tmp_path / name, exif=exif)
    with Image.open(tmp_path / name) as plain:
        assert open_picture(tmp_path / name).tobytes() == plain.convert("RGB").tobytes()
    assert picture_size(tmp_path / name) == open_picture(tmp_path / name).size == (16, 8)


def test_a_picture_that_cannot_be_decoded_is_named(tmp_path):
    noise = tmp_path / "noise.jpg"
    Image.effect_noise((64, 64), 50).save(noise)
    (tmp_path / "cut.jpg").write_bytes(noise.read_bytes()[:-500])
    noise.unlink()
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_bytes(b"not a picture")
    Image.new("F", (2, 2), 0.5).save(tmp_path / "scale.tif")  # a format without a known scale
    for path in tmp_path.iterdir():
        with pytest.raises(BadInput, match=rf"{path.name}: picture cannot be decoded \("):
            open_picture(path)
    with pytest.raises(BadInput, match=r"text\.jpg: picture cannot be decoded"):
        picture_size(tmp_path / "text.jpg")


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_dataset(tmp_path / "data", record(0), record(1, "Sex"))


def pictures(data):
    return sorted(data.parent.rglob("*.jpg"))


def tear(path):
    """Spoil a picture without changing its size or time."""
    before = path.stat()
    path.write_bytes(bytes(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_sound_picture_is_decoded_once(data):
    assert unreadable(pictures(data)[::2], data) == {} == unreadable(pictures(data)[1::2], data)
    for path in pictures(data):
        tear(path)
    assert unreadable(pictures(data), data) == {}, "two that check a part each both remember"
    data.write_text(data.read_text() + "\n")
    assert len(unreadable(pictures(data), data)) == 4, "of another data file nothing is remembered"


def test_what_has_changed_is_decoded_again_until_it_is_sound(data):
    first, second, *_ = pictures(data)
    unreadable(pictures(data), data)
    sound, before = first.read_bytes(), second.stat()
    first.write_bytes(sound[:300])
    tear(second)
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    for _ in range(2):
        assert list(unreadable(pictures(data), data)) == [first, second]
    first.write_bytes(sound)
    assert list(unreadable(pictures(data), data)) == [second]
    second.unlink()
    assert unreadable([first, second], data) == {second: f"{second}: picture not found"}
