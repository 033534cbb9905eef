"""The self-test's comparisons, against values worked out by hand: figures and their bounds, distances, responses that
differ, and sizes that fit. A report names no person."""

import math
import os
from collections import namedtuple

import pytest
import torch
from helpers import read_beside, refused, write_json

from safeeraser.errors import BadInput
from safeeraser.selftest import material, training
from safeeraser.selftest.report import anonymous, describe, figure, line, outcome
from safeeraser.selftest.training import Observed, Text, compare, confused, off_by


def test_a_figure_its_bounds_and_how_they_are_shown():
    kept = [figure("", 1.0, least=0.5, most=1.0), figure("", 0.5, least=0.5), figure("", None), figure("", 3.0)]
    broken = [figure("", 1.1, most=1.0), figure("", 0.4, least=0.5), figure("", math.nan), figure("", math.inf)]
    assert all(each["good"] for each in kept) and not any(each["good"] for each in broken)
    assert [each["value"] for each in broken] == [1.1, 0.4, "nan", "inf"]
    told = {"name": "x", "value": 1.5, "least": None, "most": 2, "unit": "s", "note": "", "good": True}
    assert figure("x", 1.5, most=2, unit="s") == told
    assert [outcome(each) for each in (kept, kept[2:3], [], broken)] == ["pass", "skipped", "skipped", "fail"]
    shown = [figure("a", 1.5, least=0.5, most=2, unit="s"), figure("b", None, note="why"), figure("c", math.nan)]
    words = ["pass 1.5 s at least 0.5, at most 2 a", "skipped b (why)", "fail nan c", "3 d"]
    assert [" ".join(line(each).split()) for each in [*shown, figure("d", 3.0)]] == words


def observed(loss, gradient, logits):
    return Observed(loss, {"gradient": torch.tensor(gradient), "logits": torch.tensor(logits)}, [text([1], [logits])])


def text(tokens, logits):
    return Text(tokens, torch.tensor(logits), [])


def test_how_far_a_step_is_from_another_and_what_it_is_held_to():
    one, two = observed(2.0, [3.0, 4.0], [3.0, 4.0]), observed(2.5, [0.0, 4.0], [3.3, 4.4])
    spread = math.sqrt(0.5)  # the standard deviation of 3 and 4
    # Expected from 8 rounded results in each layer: two of the language model, and the first two of the vision tower.
    assert off_by(torch.bfloat16, "tiny") == pytest.approx(2**-8 * math.sqrt(8 * 4))
    assert off_by(torch.float32, "tiny") == pytest.approx(2**-24 * math.sqrt(8 * 4 * 128))
    figures = list(compare("k", two, one, 0.1))
    assert [each["value"] for each in figures] == pytest.approx([0.5, 3 / 5, 0.1, 0])
    assert [each["most"] for each in figures] == pytest.approx([0.2 * spread, 0.4, 0.2, 0.6])
    # The bound is 1.5 times the distance of another kernel, or a share of the plain bound if that kernel is exact.
    half = observed(2.0, [2.5, 4.0], [3.0, 4.0])
    found = [each["most"] for each in compare("k", two, one, 0.1, half)]
    assert found == pytest.approx([0.2 * spread, 0.15, 0.03, 0.6])


def test_how_near_tokens_were_that_are_taken_for_each_other():
    # The deviation of (3, 2, 1, 0) is sqrt(5/3). The texts differ at the second token, whose logit is 1 below the best.
    its = text([0, 0, 0], [[3.0, 2.0, 1.0, 0.0]] * 3)
    assert confused([text([0, 1, 3], [[0.0]]), its], [its, its]) == pytest.approx(1 / math.sqrt(5 / 3))
    assert confused([its], [its]) == 0


def test_responses_that_part():
    tokenizer = material.build_tokenizer(material.MODELS["tiny"], 502, "One word .")
    shown = [tokenizer.decode([number], skip_special_tokens=True) for number in range(502)]
    assert len({*shown}) == 500 and not any(shown[:3]), "each word shows, and nothing else"
    logits = torch.zeros(3, 502)
    logits[:, 490], logits[:, 480], logits[:, 470] = 3.0, 2.9, 1.0
    said, deviation = Text([490, 490, 490], logits, [2, 480]), logits[0].std().item()
    assert said.gap([490, 490]) == pytest.approx(0.1 / deviation, rel=1e-5)  # ended early: by the likeliest end token
    assert (said.gap([490] * 4), said.gap([490] * 3)) == (math.inf, None)  # the first is longer than the limit
    assert said.gap([490, 470]) == pytest.approx(2 / deviation)
    assert Text([490, 490], logits, [2, 480]).gap([490, 490]) is None


def test_weights_packed_in_a_wrong_order_fail(bench, monkeypatch):
    assert next(training.nf4(bench))["good"]
    right = training.ROUNDINGS["nf4"]
    monkeypatch.setitem(training.ROUNDINGS, "nf4", lambda weight: right(weight).roll(1))
    assert next(training.nf4(bench))["value"] > 1


GIB = 2**30
SIZES = [(3.5, 99, "7b", "of memory, and 3.5 are free"), (99, 1, "1b", "takes 8 GiB of disk, and 1.0 are free")]


@pytest.mark.parametrize(("memory", "disk", "wanted", "says"), SIZES)
def test_a_size_that_does_not_fit_is_refused(tmp_path, monkeypatch, memory, disk, wanted, says):
    monkeypatch.setattr("psutil.virtual_memory", lambda: namedtuple("Memory", "available")(memory * GIB))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: namedtuple("Disk", "free")(disk * GIB))
    with pytest.raises(BadInput, match=f"--size {wanted}: .*{says}"):
        material.write(wanted, tmp_path)


# Larger sizes are tried first. To outline a size that does not fit takes seconds.
SMALLER = [pytest.param(gib, size, marks=pytest.mark.slow) for gib, size in ((17, "1b"), (2, "tiny"))]


@pytest.mark.parametrize(("gib", "size"), [(80, "7b"), *SMALLER])
def test_the_largest_size_that_fits_a_gpu(tmp_path, monkeypatch, gib, size):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda card: ((gib + 9 * card) * GIB, 0))
    monkeypatch.setattr("shutil.disk_usage", lambda folder: namedtuple("Disk", "free")(99 * GIB))
    monkeypatch.setattr(material, "build_model", lambda size: namedtuple("Model", "save_pretrained")(len))
    assert material.write(None, tmp_path).size == size


def test_a_report_tells_of_the_machine_and_of_nobody(monkeypatch, tmp_path):
    home = tmp_path / "Ada Lovelace"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MY_API_KEY", "sk-123456")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    told = anonymous(f'File "{home}/work/model.py", line 3, said ada\'s sk-123456 of /data/ada/x.json, 1/2 as adaptive')
    assert told == 'File ".../model.py", line 3, said ...\'s ... of .../x.json, 1/2 as adaptive'
    machine = describe()
    assert machine["versions"]["torch"] == torch.__version__ and machine["cores"] == len(os.sched_getaffinity(0))
    assert machine["memory_gib"] > 0.5 and machine["cpu"] and machine["gpus"] == []


@pytest.mark.parametrize(("words", "says"), read_beside(__file__, "checks.yaml")["mistakes"])
def test_a_mistake_is_one_line(tmp_path, monkeypatch, words, says):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # this process goes on, so it keeps its handlers
    write_json(tmp_path / "other.json", {"kind": "mine"})
    refused(tmp_path, "safeeraser.selftest", *words, cwd=tmp_path, says=says)
