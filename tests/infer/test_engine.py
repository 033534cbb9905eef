"""The built-in engine where memory runs short."""

import logging

import pytest
import torch
from helpers import MODEL, RECORDED, VAL

from safeeraser import model as llava
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation.context import Context
from safeeraser.generation.sampling import Generation
from safeeraser.infer import engine as engines
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import Selection, build_requests


@pytest.fixture(scope="module")
def parts():
    return llava.load_model(str(MODEL), torch.float32), llava.load_preprocessor(str(MODEL))


@pytest.fixture
def requests(monkeypatch):
    monkeypatch.chdir(RECORDED)  # the recorded paths are relative to it
    return build_requests(read_records(VAL), Selection(limit=1))[:40]


@pytest.fixture
def short(monkeypatch):
    """Memory for a number of rows; what more of them meet is what torch itself raises."""
    read = Context.read

    def limit(rows, after=0):
        calls = []

        def limited(context, given, pixels=None):
            calls.append(len(given))
            if len(given) > rows and len(calls) > after:
                torch.empty(1 << 60)
            read(context, given, pixels)

        monkeypatch.setattr(Context, "read", limited)

    return limit


def answers(engine, requests):
    given = [(request.key, text) for ended in engine.answer(requests) for request, text in ended]
    assert len(dict(given)) == len(given) == len(requests)
    return dict(given)


@pytest.mark.parametrize("after", [0, 5])
def test_the_batch_is_halved_until_it_fits(parts, requests, short, caplog, monkeypatch, after):
    """At the first rows or in the middle of a response: nothing is lost, nothing given twice, all said as it is."""
    generation = Generation(max_new_tokens=8)
    whole = answers(Engine(*parts, generation, 4), requests)
    monkeypatch.setattr(engines, "AUTO", 32)
    short(10, after)
    engine = Engine(*parts, generation)
    assert answers(engine, requests) == whole
    assert engine.batch_size == 8
    halved = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert halved == [f"out of memory: going on with --batch_size {size}" for size in (16, 8)]


def test_a_batch_that_was_asked_for_is_not_changed(parts, requests, short):
    short(10)
    with pytest.raises(BadInput, match="out of memory at --batch_size 16; --batch_size auto finds one that fits"):
        answers(Engine(*parts, Generation(max_new_tokens=2), 16), requests)


def test_when_not_even_one_fits(parts, requests, short, monkeypatch):
    monkeypatch.setattr(engines, "AUTO", 2)
    short(0)
    with pytest.raises(BadInput, match="out of memory with one response at a time"):
        answers(Engine(*parts, Generation(max_new_tokens=2)), requests)


def test_other_errors_are_not_taken_for_it(parts, requests, monkeypatch):
    monkeypatch.setattr(Context, "read", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        answers(Engine(*parts, Generation(max_new_tokens=2)), requests)
