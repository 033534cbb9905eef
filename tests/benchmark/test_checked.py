"""Pictures are decoded once: what is remembered, what is looked at again, and that nothing depends on the memory.

What has been decoded is told from outside: a torn file of the same size and time as before is only seen if it is read.
"""

import os

import pytest
from helpers import record, write_dataset

from safeeraser.benchmark.checked import unreadable


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_dataset(tmp_path / "data", record(0), record(1, "Sex"))


def pictures(data):
    return sorted(data.parent.rglob("*.jpg"))


def tear(path):
    """Spoil a picture without a change of its size or time."""
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
