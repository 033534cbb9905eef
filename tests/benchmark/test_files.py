"""A file appears whole or not at all, and what cannot be read is named."""

import pytest

from safeeraser.benchmark.files import (
    read_json,
    read_json_lines,
    read_text,
    write_json,
    write_whole,
    write_whole_folder,
)
from safeeraser.errors import BadInput


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="full"), write_whole(path) as handle:
        handle.write("half of the n")
        raise RuntimeError("disk full")
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["result.json"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        write_json(path, {"first": 1, "then": object()})
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_a_file_is_not_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder" / "result.txt"
    with write_whole(path) as handle:
        handle.write("text ü")
        handle.flush()
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "text ü"
    assert [file.name for file in path.parent.iterdir()] == ["result.txt"]


def test_a_folder_is_not_seen_before_it_is_whole(tmp_path):
    path = tmp_path / "new" / "folder"
    with write_whole_folder(path) as folder:
        (folder / "a").write_text("1")
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["folder"] and (path / "a").read_text() == "1"


def test_a_failure_while_filling_a_folder_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="full"), write_whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError("disk full")
    assert not list(tmp_path.iterdir())


def test_bytes_are_written_as_they_are(tmp_path):
    with write_whole(tmp_path / "picture", "wb") as handle:
        handle.write(b"\x00\r\n\xff")
    assert (tmp_path / "picture").read_bytes() == b"\x00\r\n\xff"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "x.json: no such file"),
        (b"\xff\xfe\x00", "x.json: not a UTF-8 text file"),
        (b'[{"a": 1},\n {"b": ', "x.json: not valid JSON (Expecting value at line 2, column 8)"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, content, says):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        read_json(path)
    assert says in str(error.value)


def test_a_folder_is_not_read(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        read_text(tmp_path)


def test_json_lines_skip_blank_lines_and_name_a_bad_one(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": 2}\n')
    assert read_json_lines(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(BadInput, match=r"x\.jsonl: line 3 is not valid JSON"):
        read_json_lines(path)


def test_json_lines_end_at_newlines_alone(tmp_path):
    """Not at the other characters at which Python's `splitlines` breaks, which JSON may hold as they are."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "one\u2028two\x85three\u2029"}\n{"a": 2}', encoding="utf-8")
    assert read_json_lines(path) == [{"a": "one\u2028two\x85three\u2029"}, {"a": 2}]
