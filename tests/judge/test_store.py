"""The store: what is kept of a reply, and who may write when several processes judge at once."""

import json
import threading

import pytest

from safeeraser.judge.store import Kept, Store


def entry(request, reply="yes", **more):
    return {"request": request, "reply": reply, **more}


def test_a_reply_is_found_with_who_gave_it_and_why_it_ended(tmp_path):
    store = Store(tmp_path / "store.jsonl")
    store.add(entry("a", finish="stop", answered_by="m-1", fingerprint="fp"))
    store.add(entry("a", "no"))
    store.add(entry("b"))  # as the last version kept it
    found = Store(store.path).find({"a", "b", "c"})
    assert found == {"a": Kept("yes", "stop", "m-1", "fp"), "b": Kept("yes")}


def test_processes_that_share_a_store_write_a_file_each_and_read_all(tmp_path):
    """None waits for another; a file whose writer has ended is taken up again."""
    path = tmp_path / "store.jsonl"
    first, second, third = (Store(path, shared=True) for _ in range(3))
    with first.held(), second.held():
        first.add(entry("a"))
        second.add(entry("b"))
        assert set(Store(path).find({"a", "b"})) == {"a", "b"}
        with third.held():
            third.add(entry("c"))
    with Store(path, shared=True).held():
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["store.1.jsonl", "store.2.jsonl", "store.jsonl"]
    for file in tmp_path.iterdir():
        head, *lines = [json.loads(line) for line in file.read_text().splitlines() if line]
        assert head["format"] == "safeeraser verdict store" and len(lines) == 1
    assert set(Store(path).find({"a", "b", "c"})) == {"a", "b", "c"}


def test_a_run_that_does_not_share_waits(tmp_path, capsys):
    store, entered = Store(tmp_path / "store.jsonl"), threading.Event()

    def other():
        with Store(store.path).held():
            entered.set()

    with store.held():
        waiting = threading.Thread(target=other)
        waiting.start()
        assert not entered.wait(0.3)
    waiting.join(5)
    assert entered.is_set() and "is in use; waiting" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["store.jsonl"]


@pytest.mark.parametrize("name", ["store.jsonl", "store.1.jsonl"])
def test_what_is_no_store_is_left_alone(tmp_path, name):
    from safeeraser.errors import BadInput

    (tmp_path / name).write_text("notes\n")
    with pytest.raises(BadInput, match="no verdict store of this version"):
        Store(tmp_path / "store.jsonl")
    assert (tmp_path / name).read_text() == "notes\n"
