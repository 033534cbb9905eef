"""If memory is short: how many responses begin, computed by hand, and that fewer at a time give the same answers."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import MODEL, RECORDED, VAL, read_beside, write_json

from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation.context import Context
from safeeraser.generation.sampling import Generation
from safeeraser.infer import engine as engines
from safeeraser.infer.engine import Engine, rows_that_fit
from safeeraser.infer.requests import Selection, build_requests
from safeeraser.model.load import load_preprocessor
from safeeraser.model.vlm import VLM
from safeeraser.selftest.material import architecture


@pytest.fixture
def requests(monkeypatch):
    monkeypatch.chdir(RECORDED)  # the recorded paths are relative to it
    return build_requests(read_records(VAL), Selection(limit=1))[:40]


@pytest.fixture
def short(monkeypatch):
    """Limit memory to a number of rows, after some reads; for more rows, torch itself raises its error."""
    read = Context.read

    def limit(rows, after=0):
        calls = []

        def limited(context, given, inputs=None):
            calls.append(len(given))
            if len(given) > rows and len(calls) > after:
                torch.empty(1 << 60)
            read(context, given, inputs)

        monkeypatch.setattr(Context, "read", limited)

    return limit


def answers(engine, requests):
    given = [(request.key, text) for ended in engine.answer(requests) for request, text in ended]
    assert len(dict(given)) == len(given) == len(requests)
    return dict(given)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 5])
def test_a_quarter_fewer_until_they_fit(vlm, requests, short, caplog, monkeypatch, after):
    """At the first rows or in the middle of a response: no answer is lost, given twice or changed."""
    generation = Generation(max_new_tokens=8)
    whole = answers(Engine(vlm, generation, 4), requests)
    monkeypatch.setattr(engines, "MOST", 32)
    short(10, after)
    engine = Engine(vlm, generation)
    assert answers(engine, requests) == whole
    assert engine.batch_size == 9
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"out of memory: continuing with --batch_size {size}" for size in (24, 18, 13, 9)]


@pytest.mark.slow
def test_what_cannot_be_helped_is_refused(vlm, requests, short, monkeypatch):
    monkeypatch.setattr(engines, "MOST", 2)
    for given, rows, says in read_beside(__file__, "memory.yaml"):
        short(rows)
        with pytest.raises(BadInput, match=f"out of memory {says}"):
            answers(Engine(vlm, Generation(max_new_tokens=2), given), requests)


def test_where_a_gpu_begins(tmp_path, requests, monkeypatch):
    """The real 7B model, with the free memory of cards of 24, 48 and 80 GB: their total memory does not count."""
    config = architecture("7b")
    model = SimpleNamespace(config=config, dtype=torch.bfloat16, device=torch.device("cuda", 1))
    for file in MODEL.glob("*.json"):
        shutil.copy(file, tmp_path)
    seen = json.loads((tmp_path / "config.json").read_text())  # the tiny model's tokenizer, the real one's picture size
    seen["vision_config"] |= {"image_size": 336, "patch_size": 14}
    write_json(tmp_path / "config.json", seen)
    pictures = json.loads((tmp_path / "preprocessor_config.json").read_text())
    pictures |= {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    write_json(tmp_path / "preprocessor_config.json", pictures)
    vlm = VLM(model, load_preprocessor(str(tmp_path)))
    for free, rows in ((9.8, 8), (31, 27), (65.5, 57), (0.1, 1)):
        left = {torch.device("cuda", 1): (int(free * 2**30), 80 * 2**30)}
        monkeypatch.setattr(torch.cuda, "mem_get_info", left.__getitem__)
        assert rows_that_fit(vlm, requests, 512) == rows
