"""A small random model of each family passes the self-test's checks. Qwen3-VL's knows every word of the questions."""

import pytest
import torch
from helpers import run

from safeeraser.benchmark.family import families
from safeeraser.benchmark.records import read_records
from safeeraser.infer.requests import build_requests
from safeeraser.model.turns import Turn
from safeeraser.model.vlm import VLM
from safeeraser.selftest import FAMILIES, engines, inference, training
from safeeraser.selftest.material import write


@pytest.fixture
def bench(tmp_path, request):
    return write(request.param, tmp_path)


def test_each_family_has_a_small_model_or_is_one_of_two():
    parents = {page.name for page in families().values() if page.model_path is None}
    assert FAMILIES.keys() | {"llava-1.5", "qwen3.5"} == parents


@pytest.mark.parametrize("bench", ["qwen3-vl"], indirect=True)
def test_a_small_model_answers_as_it_is_asked(bench):
    vlm = VLM.load(bench.model, torch.float32)
    assert vlm.family.name == "qwen3-vl" and vlm.decoder == "continuous"
    requests = build_requests(read_records(bench.data))
    rows = [vlm.encode(Turn(None, each.question)) for each in requests[:3]]
    assert vlm.preprocessor.tokenizer.unk_token_id not in {token for row in rows for token in row.input_ids}


IN_CI = ("gemma-3", "qwen3-vl")  # answers in batches and a mask of its own; three-dimensional positions


@pytest.mark.parametrize(
    "bench",
    [pytest.param(name, marks=pytest.mark.slow if name in IN_CI else pytest.mark.nightly) for name in FAMILIES],
    indirect=True,
)
def test_a_family_passes(bench):
    assert run("forget", *engines.words(bench, "alone_plain")).returncode == 0
    checks = (training.precision, inference.inference, inference.commands)
    figures = [figure for check in checks for figure in check(bench)]
    assert [figure for figure in figures if not figure["good"]] == [] and len(figures) > 20
