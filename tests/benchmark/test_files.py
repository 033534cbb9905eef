"""A file or folder appears whole or not at all, what is there stays what it is, and what cannot be read is named."""

import hashlib
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import write_json as plain_json
from scoring import predicted, record, run_eval, write_files

from safeeraser.benchmark import files
from safeeraser.errors import BadInput


def node(path, kind, major, minor):
    """A device of the test's own, so that none of the machine's can come to harm."""
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        if kind == stat.S_IFCHR:
            os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("only root can make device nodes, and not on every disk")
    return path


def says(path, value="x"):
    """The one line that writing to `path` is refused with."""
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
    with pytest.raises(TypeError):
        files.write_json(path, {"first": 1, "then": object()})
    assert path.read_text(encoding="utf-8") == "text ü" and names(path.parent) == ["result.json"]
    files.write_json(path, {"ü": 1}, indent=None)
    assert path.read_bytes() == (content := '{"ü": 1}\n'.encode())
    assert files.sha256(path) == hashlib.sha256(content).hexdigest()
    with files.write_whole(path, "wb") as handle:
        handle.write(b"\x00\r\n\xff")
    assert path.read_bytes() == b"\x00\r\n\xff"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "folder"
    with files.write_whole_folder(path) as folder:
        (folder / "a").write_text("1")
        (folder / "a").chmod(0o600)
        assert not path.exists()
    assert names(path.parent) == ["folder"] and (path / "a").read_text() == "1"
    assert (path / "a").stat().st_mode & 0o777 == path.stat().st_mode & 0o666, "as readable as the folder"
    with pytest.raises(RuntimeError), files.write_whole_folder(tmp_path / "other") as folder:
        (folder / "a").write_text("1")
        raise RuntimeError
    with pytest.raises(BadInput, match="cannot be written"), files.write_whole_folder(path) as folder:
        (folder / "b").write_text("1")
    assert names(tmp_path) == ["new"] and names(path) == ["a"], "where something is it stays"


FILLS = """
import sys
from pathlib import Path
from safeeraser.benchmark.files import write_whole_folder
with write_whole_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("1")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


def test_what_another_run_is_filling_stays_and_what_a_killed_one_had_filled_goes(tmp_path):
    """Also where it had the number of this process, as in a container that is started again."""
    command = [sys.executable, "-c", FILLS, tmp_path / "folder"]
    (tmp_path / ".folder.notes.tmp").mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        theirs = process.stdout.readline().strip()
        with files.write_whole_folder(tmp_path / "folder"):
            pass
        assert names(tmp_path) == sorted([theirs, ".folder.notes.tmp", "folder"])
        process.kill()
        process.wait()
    (tmp_path / "folder").rmdir()
    (tmp_path / theirs).rename(tmp_path / f".folder.{os.getpid()}.tmp")
    with files.write_whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
    assert names(tmp_path) == [".folder.notes.tmp", "folder"] and names(tmp_path / "folder") == ["a"]


def test_a_folder_is_held_by_one_run_at_a_time(tmp_path):
    with files.held(tmp_path, "it"):
        for shared in (False, True):
            with pytest.raises(files.Busy, match="it: another run"), files.held(tmp_path, "it", shared=shared):
                pass
    with files.held(tmp_path, "it", shared=True), files.held(tmp_path, "it", shared=True):
        pass


@pytest.mark.parametrize(
    ("read", "content", "says"),
    [
        (files.read_json, None, "x.json: no such file"),
        (files.read_text, "folder", "x.json: cannot be read"),
        (files.read_json, b"\xff\xfe\x00", "x.json: not a UTF-8 text file"),
        (files.read_json, b'[{"a": 1},\n {"b": ', "x.json: not valid JSON (Expecting value at line 2, column 8)"),
        (files.read_json, b"[" * 100_000 + b"]" * 100_000, "x.json: JSON nested too deep to be read"),
        (files.read_object, b"[1]", "x.json: must hold an object, holds a list"),
        (files.read_json_lines, b'{"a": 1}\n\n{"a": \n', "x.json: line 3 is not valid JSON"),
        (files.read_json_lines, b"1\n" + b"[" * 100_000 + b"]" * 100_000, "x.json: line 2 is JSON nested too deep"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, read, content, says):
    path = tmp_path / "x.json"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput) as error:
        read(path)
    assert says in str(error.value)


def test_json_lines_end_at_newlines_alone_and_a_mark_at_the_beginning_is_no_text(tmp_path):
    """Not at the other characters at which Python's `splitlines` breaks, which JSON may hold as they are."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "one\u2028two\x85\ufeff"}\n\n  \n{"a": 2}', encoding="utf-8-sig")
    assert (
        files.read_json_lines(path) == [{"a": "one\u2028two\x85\ufeff"}, {"a": 2}] and files.read_text(path)[0] == "{"
    )
    lines = tmp_path / "lines.jsonl"
    files.keep_json_lines(lines, bool)
    assert not lines.exists(), "a missing file stays so"
    for value in ({"a": 1}, {"a": 2}, {"a": 3}):
        files.append_json_line(lines, value)
    lines.write_text(lines.read_text() + '{"a": 4, "cut')
    files.keep_json_lines(lines, lambda value: value["a"] != 2)
    assert lines.read_text() == '{"a": 1}\n{"a": 3}\n'


def test_what_an_adapters_folder_tells(tmp_path):
    run = {"settings": {"forget_loss": {"name": "po"}, "recipe": {}}}
    checkpoint = tmp_path / "run" / "checkpoint-3"
    plain_json(tmp_path / "run" / "run.json", run)
    plain_json(checkpoint / "adapter_config.json", {})
    with pytest.raises(BadInput, match="no adapter there"):
        files.adapter_file(checkpoint)
    file = checkpoint / "adapter_model.safetensors"
    file.touch()
    assert files.adapter_file(checkpoint) == files.adapter_file(file) == file
    assert (
        files.run_of(file) == files.run_of(checkpoint) == run and files.trained_settings(checkpoint) == run["settings"]
    )
    plain_json(checkpoint / "run.json", {"own": 1})
    assert (
        files.run_of(checkpoint) == {"own": 1} and files.trained_settings(file) is None and files.run_of(tmp_path) == {}
    )
    for settings in (None, {"forget_loss": "po", "recipe": {}}, {"forget_loss": {"name": "po"}}):
        plain_json(checkpoint / "run.json", {"settings": settings})
        with pytest.raises(BadInput, match=r"run\.json: settings"):
            files.trained_settings(checkpoint)
    plain_json(tmp_path / "model" / "config.json", {})
    with pytest.raises(BadInput, match="holds a model, not an adapter"):
        files.adapter_file(tmp_path / "model")


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced_whole(tmp_path):
    """Also where it leads to what is not there yet; links in a circle are refused."""
    target, link, second = tmp_path / "disk" / "result.json", tmp_path / "link", tmp_path / "second"
    link.symlink_to("disk/result.json")
    second.symlink_to(link)
    files.make_room_for(second)
    files.write_json(second, ["old"])
    with pytest.raises(RuntimeError), files.write_whole(second) as handle:
        handle.write("half")
        raise RuntimeError
    assert link.is_symlink() and second.is_symlink() and files.read_json(target) == ["old"]
    assert names(target.parent) == ["result.json"]
    (tmp_path / "folder").symlink_to(tmp_path / "disk" / "filled")
    with files.write_whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "folder").is_symlink() and names(tmp_path / "disk" / "filled") == ["a"]
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    assert says(tmp_path / "one") == "one: cannot be written (Too many levels of symbolic links)"
    with pytest.raises(BadInput, match="Too many levels"):
        files.make_room_for(tmp_path / "one")


def test_a_device_stays_a_device_and_one_that_takes_nothing_is_named(tmp_path):
    null, full = node(tmp_path / "null", stat.S_IFCHR, 1, 3), node(tmp_path / "full", stat.S_IFCHR, 1, 7)
    (tmp_path / "link").symlink_to(null)
    for path in (null, tmp_path / "link"):
        files.make_room_for(path)
        files.write_json(path, [1])
        with files.write_whole(path, "wb") as handle:
            handle.write(b"1")
    assert null.is_char_device() and null.stat().st_rdev == os.makedev(1, 3) and (tmp_path / "link").is_symlink()
    assert says(full) == "full: cannot be written (No space left on device)" and full.is_char_device()
    assert names(tmp_path) == ["full", "link", "null"]


def test_a_pipe_gets_the_whole_content_or_nothing(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    files.make_room_for(pipe)  # its reader may come later
    assert says(pipe) == "pipe: cannot be written (nobody reads it)", "and is not waited for"
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # without waiting for who writes
    with pytest.raises(RuntimeError), files.write_whole(pipe) as handle:
        handle.write("half")
        raise RuntimeError
    assert os.read(opened, 10) == b""

    def read():
        select.select([opened], [], [], 30)
        os.set_blocking(opened, True)
        with open(opened, encoding="utf-8") as handle:
            got.append(handle.read())

    reader = threading.Thread(target=read)
    reader.start()
    text = "text ü" * 50_000  # more than a pipe holds at a time
    with files.write_whole(pipe) as handle:
        handle.write(text)
    reader.join(30)
    assert got == [text] and pipe.is_fifo() and names(tmp_path) == ["pipe"]
    leaves = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    threading.Timer(0.2, os.close, [leaves]).start()
    assert says(pipe, "x" * 1_000_000) == "pipe: cannot be written (nobody reads it)"


def test_what_takes_no_content_is_refused(tmp_path):
    """Before it is opened: the block device is one that a machine might have."""
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("folder", "socket"):
            assert says(tmp_path / name) == f"{name}: cannot be written (it is a {name})"
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x.json", Path("/proc/no-such-file")):
        with pytest.raises(BadInput, match=r"cannot be (made|written to)"):
            files.make_room_for(path)
    kept = ("/dev/null.txt", "/proc/x", "/dev/shm/x.txt", "/device/x")  # told by the path alone
    assert [files.kept_by_the_system(Path(path)) for path in kept] == [True, True, False, False]
    block = node(tmp_path / "block", stat.S_IFBLK, 7, 200)
    assert says(block) == "block: cannot be written (it is a block device)" and block.is_block_device()


WRITES = """
import sys
from pathlib import Path
from safeeraser.benchmark.files import make_room_for, write_json, write_whole
stdout, first = map(Path, sys.argv[1:])
print("before")
make_room_for(stdout)
write_json(stdout, [1])
with write_whole(first, "wb") as handle:
    handle.write(b"bytes\\n")
print("after")
"""


def test_standard_output_is_written_to_wherever_it_leads(tmp_path):
    """A file that it is redirected to is the shell's, which goes on writing there.

    The names are the test's own, of the same kind as /dev/stdout, which must not come to harm.
    """
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    (tmp_path / "first").symlink_to("/dev/fd/1")
    call = [sys.executable, "-c", WRITES, tmp_path / "stdout", tmp_path / "first"]
    said = "before\n[\n  1\n]\nbytes\nafter\n"
    assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == said
    with open(tmp_path / "out", "w") as out:
        subprocess.run(call, stdout=out, check=True)
        out.seek(0, os.SEEK_END)
        out.write("the shell\n")
    assert (tmp_path / "out").read_text() == said + "the shell\n" and len(names(tmp_path)) == 3


@pytest.mark.slow
def test_scoring_into_a_device_leaves_it_and_writes_the_summary(tmp_path):
    records = [record(0), record(1)]
    given, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    device = node(tmp_path / "null", stat.S_IFCHR, 1, 3)
    words = ["--judge", "rules", "--input_file", given, "--file_refer", reference, "--output_file_rr", device]
    done = run_eval(*words, "--summary", tmp_path / "s.json", "--store", tmp_path / "store.jsonl")
    assert done.returncode == 0, done.stderr
    assert device.is_char_device() and files.read_json(tmp_path / "s.json")["asr"]["n"] == 24
    assert files.read_json(tmp_path / "null.txt")["stats_asr_rr"]["total_asr_queries"] == 24
    assert files.read_json(tmp_path / "s.json")["verdicts"] is None
