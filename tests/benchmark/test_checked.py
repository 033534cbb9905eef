"""Pictures are decoded once: what is remembered, what is looked at again, and that nothing depends on the memory."""

import os
from pathlib import Path

import pytest
from helpers import record, write_dataset

from safeeraser.benchmark import checked
from safeeraser.benchmark.checked import unreadable


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_dataset(tmp_path / "data", record(0), record(1, "Sex"))


@pytest.fixture
def decoded(monkeypatch):
    """The pictures that are decoded, in whatever order threads get to them."""
    names, decode = [], checked.open_picture

    def watched(path):
        names.append(path)
        return decode(path)

    monkeypatch.setattr(checked, "open_picture", watched)
    return names


def pictures(data):
    return sorted(data.parent.rglob("*.jpg"))


def test_a_sound_picture_is_decoded_once(data, decoded, tmp_path, monkeypatch):
    assert unreadable(pictures(data), data) == {} and sorted(decoded) == pictures(data)
    assert unreadable(pictures(data), data) == {} and len(decoded) == 4
    # Nor from another working directory, by another name.
    monkeypatch.chdir(data.parent)
    assert unreadable([path.relative_to(data.parent) for path in pictures(data)], data) == {} and len(decoded) == 4
    (memory,) = (tmp_path / "cache" / "safeeraser").iterdir()
    assert memory.name.startswith("pictures-")


def test_what_has_changed_is_decoded_again(data, decoded):
    first, second, *_ = pictures(data)
    unreadable(pictures(data), data)
    decoded.clear()
    whole, before = first.read_bytes(), second.stat()
    first.write_bytes(whole[:300])
    # Of the same size, but later.
    os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert unreadable(pictures(data), data) == {first: f"{first}: picture cannot be decoded (OSError)"}
    assert sorted(decoded) == [first, second]
    # A bad one is looked at each time, and mended it is sound.
    assert list(unreadable(pictures(data), data)) == [first]
    first.write_bytes(whole)
    assert unreadable(pictures(data), data) == {}


def test_one_that_vanishes_is_missed(data):
    path, *others = pictures(data)
    unreadable([path, *others], data)
    path.unlink()
    assert unreadable([path, *others], data) == {path: f"{path}: picture not found"}
    for name in ("n" * 300, "n\0n"):
        assert f"{name}: picture " in unreadable([Path(name)], data)[Path(name)]
    assert unreadable([Path("no/such.jpg")], data) == {Path("no/such.jpg"): "no/such.jpg: picture not found"}


def test_another_check_or_another_file_remembers_nothing_of_it(data, decoded, monkeypatch):
    unreadable(pictures(data), data)
    monkeypatch.setattr(checked, "VERSION", checked.VERSION + 1)
    unreadable(pictures(data), data)
    assert len(decoded) == 8
    data.write_text(data.read_text() + "\n")
    unreadable(pictures(data), data)
    assert len(decoded) == 12


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b'{"x": 3}'])
def test_a_memory_that_is_broken_is_written_anew(data, decoded, tmp_path, content):
    unreadable(pictures(data), data)
    (memory,) = (tmp_path / "cache" / "safeeraser").iterdir()
    memory.write_bytes(content)
    assert unreadable(pictures(data), data) == {} and len(decoded) == 8
    assert unreadable(pictures(data), data) == {} and len(decoded) == 8


def test_a_cache_that_cannot_be_written_is_no_error(data, decoded, tmp_path):
    (tmp_path / "cache").write_text("a file")
    for times in (1, 2):
        assert unreadable(pictures(data), data) == {} and len(decoded) == 4 * times


def test_two_that_check_a_part_each_both_remember(data, decoded):
    unreadable(pictures(data)[::2], data)
    unreadable(pictures(data)[1::2], data)
    assert unreadable(pictures(data), data) == {} and len(decoded) == 4
