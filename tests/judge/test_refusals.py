"""What a user gets wrong about judges is refused before anybody is asked, with what is at fault: `refusals.yaml`."""

import os
import shlex

import pytest
from helpers import read_beside, refusal
from scoring import KEY

from safeeraser.judge import dialects
from safeeraser.judge.judging import Choice, Judging
from safeeraser.judge.panel import Panel

from .asked import ask, parsed, query

REFUSALS = read_beside(__file__, "refusals.yaml")
FILES = [(kind, *of) for kind in ("guard", "truth", "replies") for of in REFUSALS[kind]]
JUDGES = {"guard": "llamaguard@http://127.0.0.1:9/v1", "truth": "truth", "replies": "replay"}
NAMES = {"guard": "llamaguard.yaml", "truth": "truth.json", "replies": "replies.json"}


@pytest.mark.parametrize("words, says", REFUSALS["command"].items())
def test_words_that_cannot_be_meant(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "pipe")
    said = refusal(lambda: Panel(parsed(*shlex.split(words.replace("KEY", KEY)))))
    assert says in said and KEY not in said


@pytest.mark.parametrize("kind, content, says", FILES)
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path, monkeypatch, kind, content, says):
    if kind == "guard":
        monkeypatch.setattr(dialects, "CONFIG", tmp_path)
        says = f"llamaguard.yaml: {says}"
    if content is not None:
        (tmp_path / NAMES[kind]).write_text(content)
    named = {"asr": Choice.parse(JUDGES[kind])}
    files = {"data": tmp_path / "all_val.json", "replies": tmp_path / "replies.json", "store": tmp_path / "store.jsonl"}
    given = Judging(judge=Choice("rules"), judges=named, **files)
    assert says in refusal(ask, given, [query(picture="p.jpg")])
