"""The verdict store: no reply is paid for twice, whatever stops a run and however many run at once."""

import fcntl
import threading
import time

import pytest
from helpers import until

from safeeraser.errors import BadInput
from safeeraser.judge.store import HEAD, Kept, Store

from .asked import ask, judging, queries, query, words


def entry(request, reply="yes", **more):
    return {"request": request, "reply": reply, **more}


def test_a_damaged_line_spoils_itself_alone_and_what_is_no_store_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(HEAD + b'{"request": ["a"], "reply": "x"}\n{"request": "a", "reply": null}\n[1]\n{"requ')
    Store(path).add(entry("a"))
    assert Store(path).find({"a"}) == {"a": Kept("yes")}
    for name, content in (("store.jsonl", "notes\n"), ("store.1.jsonl", HEAD.decode().replace("1", "99"))):
        (tmp_path / name).write_text(content)
        with pytest.raises(BadInput, match=f"{name}: no verdict store of this version"):
            Store(tmp_path / "store.jsonl")
        assert (tmp_path / name).read_text() == content
        (tmp_path / name).write_bytes(HEAD[:20])  # cut by a kill
    Store(tmp_path / "store.jsonl")


def test_processes_that_share_a_store_write_a_file_each_and_read_all(tmp_path):
    """No process waits for another. A file whose writer has ended is used again."""
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
    assert all(file.read_bytes().startswith(HEAD + b"\n{") for file in tmp_path.iterdir())
    assert set(Store(path).find({"a", "b", "c"})) == {"a", "b", "c"}


def test_two_runs_on_one_store_pay_once(tmp_path, serve, capsys):
    """The second waits until the first has ended, and finds its replies."""
    server = serve(lambda *_: (time.sleep(0.1), (200, {}, "yes"))[1])
    runs, given = [], judging(tmp_path, server, concurrency=1)
    first = threading.Thread(target=lambda: runs.append(words(ask(given, queries(2))[1])))
    first.start()
    until(lambda: server.requests)
    second = words(ask(given, queries(2))[1])
    first.join()
    assert len(server.requests) == 8 and runs == [second]
    assert "is in use; waiting for the other run to end" in capsys.readouterr().err


def test_a_run_on_another_machine_is_not_waited_for(tmp_path):
    """Only its lock on the file is visible here: this run writes another file, and both are read."""
    path = tmp_path / "store.jsonl"
    with open(path, "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with (store := Store(path)).held():
            store.add(entry("a"))
    assert path.with_name("store.1.jsonl").read_bytes().startswith(HEAD) and set(Store(path).find({"a"})) == {"a"}


def test_a_run_asks_only_for_what_is_new(tmp_path, serve):
    """Equal requests are one call; another response, model, max_tokens, protocol or extra_body is another request."""
    server, same = serve(lambda *_: (200, {}, "unsafe")), [query(response="Same.", number=n) for n in range(3)]
    runs = [({}, same), ({}, [*same, query(response="Another.")]), ({"model": "m"}, same), ({"max_tokens": 9}, same)]
    runs += [({"protocol": "corrected"}, same), ({"extra_body": {"seed": 1}}, same), ({}, same)]
    calls = [0]
    for more, asked in runs:
        assert set(words(ask(judging(tmp_path, server, **more), asked)[1])) == {"unsafe"}
        calls.append(len(server.requests) - sum(calls))
    assert calls[1:] == [1, 1, 1, 1, 1, 1, 0]
