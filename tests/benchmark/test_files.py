"""A file appears whole or not at all, and what cannot be read is named."""

import os
import select
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from scoring import predicted, record, run_eval, write_files

from safeeraser.benchmark.files import (
    kept_by_the_system,
    make_room_for,
    read_json,
    read_json_lines,
    read_text,
    write_json,
    write_whole,
    write_whole_folder,
)
from safeeraser.benchmark.records import read_raw
from safeeraser.errors import BadInput
from safeeraser.score.options import Options


def node(path, kind, major, minor):
    """A device of the test's own, so that none of the machine's can come to harm."""
    try:
        os.mknod(path, kind | 0o666, os.makedev(major, minor))
        if kind == stat.S_IFCHR:
            os.close(os.open(path, os.O_WRONLY))
    except PermissionError:
        pytest.skip("only root can make device nodes, and not on every disk")
    return path


def null(folder):
    """What /dev/null is."""
    return node(folder / "null", stat.S_IFCHR, 1, 3)


def says(path, value="x"):
    """The one line that writing to `path` is refused with."""
    with pytest.raises(BadInput) as error, write_whole(path) as handle:
        handle.write(value)
    return str(error.value).replace(str(path), path.name)


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


FILLS = """
import sys
from pathlib import Path
from safeeraser.benchmark.files import write_whole_folder
with write_whole_folder(Path(sys.argv[1])) as folder:
    (folder / "half").write_text("1")
    print(folder.name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def filling(tmp_path):
    """Another process in the middle of filling `tmp_path / "folder"`, and what it fills until then."""
    command = [sys.executable, "-c", FILLS, tmp_path / "folder"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_what_a_killed_run_had_filled_is_removed_and_in_nobodys_way(tmp_path, filling):
    """Also where it had the number of this process, as in a container that is started again."""
    process, left = filling
    process.kill()
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [left.name], "nothing is there under the folder's own name"
    left.rename(tmp_path / f".folder.{os.getpid()}.tmp")
    with write_whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a"]


def test_what_another_run_is_filling_stays(tmp_path, filling):
    _, theirs = filling
    (tmp_path / ".folder.notes.tmp").mkdir()
    with write_whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
    assert (theirs / "half").read_text() == "1" and (tmp_path / ".folder.notes.tmp").is_dir()


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
        (b"[" * 100_000 + b"]" * 100_000, "x.json: JSON nested too deep to be read"),
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


def test_a_line_nested_too_deep_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n' + '{"a":' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(BadInput, match=r"x\.jsonl: line 2 is JSON nested too deep"):
        read_json_lines(tmp_path / "x.jsonl")


@pytest.mark.parametrize("text", ['[{"a": "ü"}]', '{"a": "ü"}\n{"a": "\ufeff"}\n'])
def test_a_mark_at_the_beginning_is_no_part_of_the_text(tmp_path, text):
    """Editors on Windows write one; elsewhere in the text it is a character like any other."""
    (tmp_path / "x.json").write_text(text, encoding="utf-8-sig")
    assert read_text(tmp_path / "x.json") == text and read_raw(tmp_path / "x.json")[0] == {"a": "ü"}


def test_json_lines_end_at_newlines_alone(tmp_path):
    """Not at the other characters at which Python's `splitlines` breaks, which JSON may hold as they are."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": "one\u2028two\x85three\u2029"}\n{"a": 2}', encoding="utf-8")
    assert read_json_lines(path) == [{"a": "one\u2028two\x85three\u2029"}, {"a": 2}]


def test_a_symbolic_link_stays_and_what_it_leads_to_is_replaced_whole(tmp_path):
    target, link, second = tmp_path / "disk" / "result.json", tmp_path / "link", tmp_path / "second"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to("disk/result.json")
    second.symlink_to(link)
    with pytest.raises(RuntimeError), write_whole(second) as handle:
        handle.write("half")
        raise RuntimeError
    assert target.read_text() == "old"
    with write_whole(second) as handle:
        handle.write("new")
        handle.flush()
        assert target.read_text() == "old"
    assert link.is_symlink() and second.is_symlink() and target.read_text() == "new"
    assert [file.name for file in target.parent.iterdir()] == ["result.json"]


def test_a_link_to_what_is_not_there_yet_leads_to_it_then(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new" / "result.json")
    make_room_for(tmp_path / "link")
    write_json(tmp_path / "link", [1])
    assert (tmp_path / "link").is_symlink() and read_json(tmp_path / "new" / "result.json") == [1]
    (tmp_path / "folder").symlink_to(tmp_path / "disk" / "filled")
    with write_whole_folder(tmp_path / "folder") as folder:
        (folder / "a").write_text("1")
    assert (tmp_path / "folder").is_symlink() and (tmp_path / "disk" / "filled" / "a").read_text() == "1"


def test_links_in_a_circle_are_refused(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.symlink_to(other)
    other.symlink_to(one)
    assert says(one) == "one: cannot be written (Too many levels of symbolic links)"
    with pytest.raises(BadInput, match="Too many levels"):
        make_room_for(one)
    assert one.is_symlink() and other.is_symlink() and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_device_stays_a_device(tmp_path, through_a_link):
    device = path = null(tmp_path)
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to(device)
    make_room_for(path)
    write_json(path, [1])
    with write_whole(path, "wb") as handle:
        handle.write(b"1")
    assert device.is_char_device() and device.stat().st_rdev == os.makedev(1, 3)
    assert path.is_symlink() == through_a_link and len(list(tmp_path.iterdir())) == 1 + through_a_link


def test_a_device_that_takes_nothing_is_named(tmp_path):
    full = node(tmp_path / "full", stat.S_IFCHR, 1, 7)
    assert says(full) == "full: cannot be written (No space left on device)" and full.is_char_device()


def test_a_pipe_gets_the_whole_content_or_nothing(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # without waiting for who writes
    with pytest.raises(RuntimeError), write_whole(pipe) as handle:
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
    with write_whole(pipe) as handle:
        handle.write(text)
    reader.join(30)
    assert got == [text] and pipe.is_fifo() and len(list(tmp_path.iterdir())) == 1


def test_a_pipe_that_nobody_reads_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    make_room_for(tmp_path / "pipe")  # its reader may come later
    assert says(tmp_path / "pipe") == "pipe: cannot be written (nobody reads it)"
    assert (tmp_path / "pipe").is_fifo()


def test_a_pipe_whose_reader_goes_away_is_named(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    threading.Timer(0.2, os.close, [reader]).start()
    assert says(pipe, "x" * 1_000_000) == "pipe: cannot be written (nobody reads it)"


def test_what_takes_no_content_is_refused(tmp_path):
    """Before it is opened: the block device is one that a machine might have."""
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("folder", "socket"):
            assert says(tmp_path / name) == f"{name}: cannot be written (it is a {name})"
    block = node(tmp_path / "block", stat.S_IFBLK, 7, 200)
    assert says(block) == "block: cannot be written (it is a block device)" and block.is_block_device()
    with pytest.raises(BadInput, match="it is a block device"):
        make_room_for(block)


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


@pytest.mark.parametrize("into", ["a pipe", "a file"])
def test_standard_output_is_written_to_wherever_it_leads(tmp_path, into):
    """A file that it is redirected to is the shell's, which goes on writing there.

    The names are the test's own, of the same kind as /dev/stdout, which must not come to harm.
    """
    links = {"stdout": "/proc/self/fd/1", "first": "/dev/fd/1"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    call, said = (
        [sys.executable, "-c", WRITES, *(tmp_path / name for name in links)],
        "before\n[\n  1\n]\nbytes\nafter\n",
    )
    if into == "a pipe":
        assert subprocess.run(call, capture_output=True, text=True, check=True).stdout == said
        return
    with open(tmp_path / "out", "w") as out:
        subprocess.run(call, stdout=out, check=True)
        out.seek(0, os.SEEK_END)
        out.write("the shell\n")
    assert (tmp_path / "out").read_text() == said + "the shell\n" and len(list(tmp_path.iterdir())) == 3


def test_nothing_is_made_among_what_the_system_keeps(tmp_path):
    """Told by the path alone; nothing here opens what is there."""
    kept = [
        path for path in ("/dev/null.txt", "/proc/x", "/dev/shm/x.txt", "/device/x") if kept_by_the_system(Path(path))
    ]
    assert kept == ["/dev/null.txt", "/proc/x"]
    options = Options(tmp_path / "p.json", tmp_path / "d.json", Path("/dev/null"))
    assert options.statistics is None
    with pytest.raises(BadInput, match="cannot be written to"):
        make_room_for(Path("/proc/no-such-file"))


def test_scoring_into_a_device_leaves_it_and_writes_the_summary(tmp_path):
    records = [record(0), record(1)]
    given, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    device = null(tmp_path)
    words = ["--judge", "rules", "--input_file", given, "--file_refer", reference, "--output_file_rr", device]
    done = run_eval(*words, "--summary", tmp_path / "s.json", "--store", tmp_path / "store.jsonl")
    assert done.returncode == 0, done.stderr
    assert device.is_char_device() and read_json(tmp_path / "s.json")["asr"]["n"] == 24
    assert read_json(tmp_path / "null.txt")["stats_asr_rr"]["total_asr_queries"] == 24
    assert read_json(tmp_path / "s.json")["verdicts"] is None
