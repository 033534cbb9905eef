"""Where memory runs short: how many responses begin, by hand, and that fewer go on to the same answers."""

import json
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers import MODEL, RECORDED, VAL, settings, write_json
from transformers import LlavaConfig

from safeeraser import model as models
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation.context import Context
from safeeraser.generation.sampling import Generation
from safeeraser.infer import engine as engines
from safeeraser.infer.engine import Engine
from safeeraser.infer.memory import out_of_memory, row_bytes, rows_that_fit
from safeeraser.infer.requests import Selection, build_requests

GIB = 2**30


@pytest.fixture(scope="module")
def vlm():
    return models.VLM.load(str(MODEL), torch.float32)


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

        def limited(context, given, inputs=None):
            calls.append(len(given))
            if len(given) > rows and len(calls) > after:
                torch.empty(1 << 60)
            read(context, given, inputs)

        monkeypatch.setattr(Context, "read", limited)

    return limit


def seeing(folder, **vision):
    """A preprocessor as the tiny model has it, for a vision tower of other measures."""
    for file in MODEL.glob("*.json"):
        shutil.copy(file, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= vision
    write_json(folder / "config.json", config)
    side = vision["image_size"]
    pictures = json.loads((folder / "preprocessor_config.json").read_text())
    pictures |= {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    write_json(folder / "preprocessor_config.json", pictures)
    return models.load_preprocessor(str(folder))


def answers(engine, requests):
    given = [(request.key, text) for ended in engine.answer(requests) for request, text in ended]
    assert len(dict(given)) == len(given) == len(requests)
    return dict(given)


@pytest.mark.parametrize("after", [0, 5])
def test_a_quarter_fewer_until_they_fit(vlm, requests, short, caplog, monkeypatch, after):
    """At the first rows or in the middle of a response: nothing is lost, nothing given twice, all said as it is."""
    generation = Generation(max_new_tokens=8)
    whole = answers(Engine(vlm, generation, 4), requests)
    monkeypatch.setattr(engines, "MOST", 32)
    short(10, after)
    engine = Engine(vlm, generation)
    assert answers(engine, requests) == whole
    assert engine.batch_size == 9
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"out of memory: going on with --batch_size {size}" for size in (24, 18, 13, 9)]


@pytest.mark.parametrize(
    ("given", "rows", "says"),
    [
        (16, 10, "out of memory at --batch_size 16; --batch_size auto finds one that fits"),
        (None, 0, "out of memory with one response at a time"),
    ],
)
def test_what_cannot_be_helped_is_refused(vlm, requests, short, monkeypatch, given, rows, says):
    monkeypatch.setattr(engines, "MOST", 2)
    short(rows)
    with pytest.raises(BadInput, match=says):
        answers(Engine(vlm, Generation(max_new_tokens=2), given), requests)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("XPU has no more"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    ],
    ids=str,
)
def test_every_way_of_saying_it_is_known(error):
    assert out_of_memory(error)


@pytest.mark.parametrize("said", ["CUDA error: an illegal memory access was encountered", "out of memory, as they say"])
def test_what_is_not_that(said):
    assert not out_of_memory(RuntimeError(said))


def test_the_bytes_of_a_row_by_hand():
    """LLaVA-1.5-7B in bfloat16: half a MiB a token. A text model with 8 heads for keys and values holds a quarter."""
    architecture = settings("model_family=llava-1.5-7b").model_family.architecture
    config = LlavaConfig(**architecture)
    picture = models.picture_bytes(config, {"pixel_values": torch.empty(1, 3, 336, 336, device="meta")}, 2)
    given = {"prompt": 640, "new_tokens": 512, "asks": 0.6, "pictures": 0.1, "picture": picture}
    token = 2 * 32 * 4096 * 2
    states, seen, logits = 640 * (3 * 11008 + 6 * 4096) * 2, 577 * 1024 * 32 * 2, 48 * 32064
    assert picture == seen
    begun = 640 * 1.7 * token + 0.6 * states + 0.1 * seen
    assert row_bytes(config.text_config, 2, **given) == pytest.approx((640 + 512 + 32) * token + begun / 2 + logits)
    fewer = LlavaConfig(**architecture)
    fewer.text_config.num_key_value_heads = 8
    kept = [row_bytes(each.text_config, 2, **given) for each in (config, fewer)]
    assert kept[0] - kept[1] == pytest.approx(0.75 * token * (640 + 512 + 32 + 640 * 1.7 / 2))
    # A picture for each question and short answers: the first rows of all take the most.
    alone = {"prompt": 640, "new_tokens": 8, "asks": 1, "pictures": 1, "picture": picture}
    assert row_bytes(config.text_config, 2, **alone) == 640 * 3 * token + states + seen + logits


@pytest.mark.parametrize(("free", "rows"), [(9.8, 9), (31, 29), (65.5, 61), (0.1, 1)])
def test_where_a_gpu_begins(tmp_path, requests, monkeypatch, free, rows):
    """The real 7B beside what a card of 24, 48 and 80 GB has left: by its free memory, not by all of it."""
    config = LlavaConfig(**settings("model_family=llava-1.5-7b").model_family.architecture)
    model = SimpleNamespace(config=config, dtype=torch.bfloat16, device=torch.device("cuda", 1))
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: asked.append(device) or (int(free * GIB), 80 * GIB))
    preprocessor = seeing(tmp_path, image_size=336, patch_size=14)
    assert rows_that_fit(models.VLM(model, preprocessor), requests, 512) == rows
    assert asked == [torch.device("cuda", 1)]
