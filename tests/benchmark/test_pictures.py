"""Where a picture is looked for, and what is said of one that is missing or damaged."""

import pytest
from helpers import record, write_json
from PIL import Image

from safeeraser.benchmark.pictures import find_picture, open_picture, picture_path
from safeeraser.benchmark.records import read_records
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


def test_a_missing_picture_is_named_by_record_and_key(tmp_path):
    data = read_records(write_json(tmp_path / "d.json", [record(0), record(1, "Sex")]))
    with pytest.raises(BadInput) as error:
        picture_path(data, 1, "SDImage_path")
    assert str(error.value) == f"{tmp_path / 'd.json'}: record 1, SDImage_path: picture pdset/Sex/1.jpg not found"


@pytest.mark.parametrize(("mode", "colour"), [("L", 7), ("RGBA", (1, 2, 3, 4)), ("P", 0), ("CMYK", (1, 2, 3, 4))])
def test_every_mode_becomes_rgb(tmp_path, mode, colour):
    path = picture(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), colour, mode)
    assert open_picture(path).mode == "RGB" and open_picture(path).size == (3, 2)


@pytest.mark.parametrize("content", [b"", b"not a picture", "cut"])
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path, content):
    path = tmp_path / "x.jpg"
    if content == "cut":
        Image.effect_noise((64, 64), 50).save(path)
        content = path.read_bytes()[:-500]
    path.write_bytes(content)
    with pytest.raises(BadInput, match=r"x\.jpg: picture cannot be decoded"):
        open_picture(path)
