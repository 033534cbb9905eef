"""Files and folders appear complete or not at all, existing ones stay intact, and unreadable files are named."""

import hashlib
import os
import subprocess
import sys

import pytest
from helpers import refusal

from safeeraser.benchmark import files
from safeeraser.errors import BadInput


def says(path, value="x"):
    """The error message with which writing to `path` is refused."""
    with pytest.raises(BadInput) as error, files.write_whole(path) as handle:
        handle.write(value)
    return str(error.value).replace(str(path), path.name)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_or_the_old_one_stays(tmp_path):
    path = tmp_path / "new" / "result.json"
    with files.write_whole(path) as handle:
        handle.write("text ü")
        handle.flush()
        assert not path.exists()
    assert path.read_text(encoding="utf-8") == "text ü"
    with pytest.raises(RuntimeError), files.write_whole(path) as handle:
        handle.write("half of the n")
        raise RuntimeError
    assert path.read_text(encoding="utf-8") == "text ü" and names(path.parent) == ["result.json"]
    files.write_json(path, {"ü": 1}, indent=None)
    assert path.read_bytes() == (content := '{"ü": 1}\n'.encode())
    assert files.sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "folder"
    with files.write_whole_folder(path) as folder:
        (folder / "a").write_text("1")
        (folder / "a").chmod(0o600)
        assert not path.exists()
    assert names(path.parent) == ["folder"] and (path / "a").read_text() == "1"
    assert (path / "a").stat().st_mode & 0o777 == path.stat().st_mode & 0o666, "as readable as the folder"
    with pytest.raises(RuntimeError), files.write_whole_folder(tmp_path / "other"):
        raise RuntimeError
    with pytest.raises(BadInput, match="cannot be written"), files.write_whole_folder(path) as folder:
        (folder / "b").write_text("1")
    assert names(tmp_path) == ["new"] and names(path) == ["a"], "where something is it stays"


FILLS = """
import sys
from pathlib import Path
from safeeraser.benchmark.files import write_whole_folder
with write_whole_folder(Path(sys.argv[1])) as folder:
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_what_another_run_fills_or_holds_stays_and_what_a_killed_one_had_filled_goes(tmp_path):
    command = [sys.executable, "-c", FILLS, tmp_path / "folder"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        theirs = process.stdout.readline().strip()
        with files.write_whole_folder(tmp_path / "folder"):
            pass
        assert names(tmp_path) == sorted([theirs, "folder"])
        process.kill()
        process.wait()
    (tmp_path / "folder").rmdir()
    with files.write_whole_folder(tmp_path / "folder"):
        pass
    assert names(tmp_path) == ["folder"]
    busy = pytest.raises(files.Busy, match="it: another run")
    with files.held(tmp_path, "it"), busy, files.held(tmp_path, "it", shared=True):
        pass
    with files.held(tmp_path, "it", shared=True), files.held(tmp_path, "it", shared=True):
        pass


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (files.read_json, None, "x.json: no such file"),
        (files.read_json, b"\xff\xfe\x00", "x.json: not a UTF-8 text file"),
        (files.read_json, b'[{"a": 1},\n {"b": ', "x.json: not valid JSON (Expecting value at line 2, column 8)"),
        (files.read_json, b"[" * 100_000 + b"]" * 100_000, "x.json: JSON nested too deep to be read"),
        (files.read_object, b"[1]", "x.json: must hold an object, holds a list"),
        (files.read_json_lines, b'{"a": 1}\n\n{"a": \n', "x.json: line 3 is not valid JSON"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, read, content, says):
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    assert says in refusal(read, path)


def test_json_lines_end_at_newlines_alone_and_a_mark_at_the_beginning_is_no_text(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "one\u2028two\x85\ufeff"}\n\n  \n{"a": 2}', encoding="utf-8-sig")
    assert files.read_json_lines(path) == [{"a": "one\u2028two\x85\ufeff"}, {"a": 2}]
    lines = tmp_path / "lines.jsonl"
    for value in ({"a": 1}, {"a": 2}, {"a": 3}):
        files.append_json_line(lines, value)
    lines.write_text(lines.read_text() + '{"a": 4, "cut')
    files.keep_json_lines(lines, lambda value: value["a"] != 2)
    assert lines.read_text() == '{"a": 1}\n{"a": 3}\n'


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced_whole(tmp_path):
    target, link, second = tmp_path / "disk" / "result.json", tmp_path / "link", tmp_path / "second"
    link.symlink_to("disk/result.json")
    second.symlink_to(link)
    files.make_room_for(second)
    files.write_json(second, ["old"])
    assert link.is_symlink() and second.is_symlink() and files.read_json(target) == ["old"]
    assert names(target.parent) == ["result.json"]
    with pytest.raises(BadInput, match="its folder cannot be made"):
        files.make_room_for(target / "x.json")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "one").symlink_to("one")
    for name, kind in (("disk", "folder"), ("pipe", "device or a pipe"), ("one", "circle of links")):
        assert says(tmp_path / name) == f"{name}: cannot be written (it is a {kind}); name a file"
        with pytest.raises(BadInput, match=kind):
            files.make_room_for(tmp_path / name)
