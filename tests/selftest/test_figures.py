"""What the self-test compares, with values worked out by hand: a figure and its bounds, distances, what parts and what
fits; and a report tells of nobody."""

import math
import os
from pathlib import Path

import pytest
import torch
from helpers import refused, write_json
from safetensors.torch import save_file

from safeeraser.errors import BadInput
from safeeraser.selftest import engines, families, inference, memory, nf4, resume, run
from safeeraser.selftest.machine import anonymous, describe
from safeeraser.selftest.material import Bench, build_tokenizer
from safeeraser.selftest.precision import Observed, Text, compare, confused, off_by
from safeeraser.selftest.result import Figure, Result

PLAYED = Path(__file__).with_name("played.sh")


def test_a_figure_its_bounds_and_how_they_are_shown():
    kept = [Figure("", 1.0, 0.5, 1.0), Figure("", 0.5, 0.5), Figure("", None, 2.0), Figure("", 3.0)]
    broken = [Figure("", 1.1, most=1.0), Figure("", 0.4, 0.5), Figure("", math.nan), Figure("", math.inf, 0.5)]
    assert all(each.good for each in kept) and not any(each.good for each in broken)
    assert [each.record["value"] for each in broken] == [1.1, 0.4, "nan", "inf"]
    shown = [Figure("", 0.5, 0.5, 1.05, "%"), Figure("", 12345.0, 0, 0), Figure("", None, note="why")]
    bounds = [("50.0%", "at least 50.0%, at most 105.0%"), ("12,345", "exactly 0"), ("(why)", "")]
    assert [(each.measured, each.bound) for each in shown] == bounds
    told = {"name": "x", "value": 1.5, "least": None, "most": 2, "unit": "s", "note": "", "good": True}
    result = Result("c", [Figure("x", 1.5, most=2, unit="s")], seconds=1.26)
    assert result.record == {"outcome": "pass", "seconds": 1.3, "figures": [told]}
    outcomes = [Result("x", kept), Result("x", [kept[2]]), Result("x", skipped="why"), Result("x", broken)]
    outcomes.append(Result("x", kept, error="no"))
    assert [each.outcome for each in outcomes] == ["pass", "skipped", "skipped", "fail", "fail"]


def test_how_far_a_step_is_from_another_and_what_it_is_held_to():
    one = Observed(2.0, {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}, [Text([1], torch.tensor([[3.0, 4.0]]))])
    two = Observed(2.5, {"b": torch.tensor([4.0]), "a": torch.tensor([0.0])}, [Text([1], torch.tensor([[3.3, 4.4]]))])
    spread = math.sqrt(0.5)  # of 3 and 4
    # Expected of layers of the language model, and of the vision tower all but the last; 8 results each.
    assert off_by(torch.bfloat16, "tiny") == pytest.approx(2**-8 * math.sqrt(8 * 4))
    assert off_by(torch.float32, "tiny") == pytest.approx(2**-24 * math.sqrt(8 * 4 * 128))
    figures = list(compare("k", two, one, 0.1))
    assert [each.value for each in figures] == pytest.approx([0.5, 3 / 5, 0.1, 0])
    assert [each.most for each in figures] == pytest.approx([0.2 * spread, 0.4, 0.2, 0.6])
    # Beside a kernel that is off by less, held to 1.5 times that; beside one that is off by nothing, to a share.
    half = Observed(2.0, {"a": torch.tensor([2.5]), "b": torch.tensor([4.0])}, one.texts)
    found = [each.most for each in compare("k", two, one, 0.1, beside=half)]
    assert found == pytest.approx([0.2 * spread, 0.15, 0.03, 0.6])


def test_how_near_tokens_were_that_are_taken_for_each_other():
    # Deviation of (3, 2, 1, 0): sqrt(5/3). The texts part at their second token, chosen 1 below the best.
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(3, 1)
    its = Text([0, 0, 0], logits)
    assert confused([Text([0, 1, 3], logits), its], [its, its]) == pytest.approx(1 / math.sqrt(5 / 3))
    assert confused([Text([0, 0, 0], logits)], [its]) == 0


def test_responses_that_part():
    tokenizer = build_tokenizer(500, [])
    shown = [tokenizer.decode([number], skip_special_tokens=True) for number in range(502)]
    assert len({*shown}) == 498 and not any(shown[:3] + shown[500:]), "each word shows, and nothing else"
    word, logits = tokenizer.convert_ids_to_tokens(range(500)), torch.zeros(3, 502)
    logits[:, 490], logits[:, 480], logits[:, 470] = 3.0, 2.9, 1.0
    text, deviation, ends = Text([490, 490, 490], logits), logits[0].std().item(), [2, 480]
    said = {2: 0.1, 4: math.inf, 3: None}  # it ended where this one went on: by the likeliest that ends; it goes on
    found = {count: inference.parted(text, " ".join([word[490]] * count), tokenizer, ends) for count in said}
    assert found == {2: pytest.approx(0.1 / deviation, rel=1e-5), 4: math.inf, 3: None}
    assert inference.parted(text, f"{word[490]} {word[470]}", tokenizer, ends) == pytest.approx(2 / deviation)
    assert inference.parted(Text([490, 490, 480], logits), f"{word[490]} {word[490]}", tokenizer, ends) is None


def test_engines_and_a_resumed_run_are_held_to_one_process(tmp_path, monkeypatch):
    """Which is trained once for all. No compiler is here, without which ZeRO-3 cannot be."""

    def check_machine(engine):
        if engine.name == "zero3":
            raise BadInput("engine: no compiler is here; install one")

    (tmp_path / "python").write_text(PLAYED.read_text().replace("HERE", str(tmp_path)))
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr(engines, "check_machine", check_machine)
    for name, size in (("one", 1), ("off", 1.0005)):
        weights = {"x.lora_B.weight": torch.tensor([3.0, 4.0]) * size, "x.lora_A.weight": torch.ones(2)}
        save_file(weights, tmp_path / f"{name}.safetensors")
    write_json(tmp_path / "alone.json", {"sittings": [{"from_step": 0}, {"from_step": 2}]})
    write_json(tmp_path / "cpu_ddp.json", {"engine": {"name": "ddp", "processes": 2}})
    write_json(tmp_path / "cpu_zero2.json", {"engine": {"name": "zero2", "processes": 2}})
    bench = Bench(tmp_path / "bench", "tiny")
    for _ in range(2):
        found = {each.name: (each.value, each.most, each.note) for each in engines.check(bench)}
        off, told = (pytest.approx(5e-4, rel=1e-3), 1e-3, ""), "2 processes: distance of LoRA's B"
        assert found == {f"cpu_ddp, {told}": off, f"cpu_zero2, {told}": off} | {
            f"cpu_zero3, {told}": (None, None, "no compiler is here")
        }
    resumed = [(each.value, each.least, each.most) for each in resume.check(bench)]
    assert resumed == [(2, 2, None), (0, None, 0)]
    calls = (tmp_path / "calls").read_text().splitlines()
    names = ["cpu_ddp", "alone", "cpu_zero2", "cpu_ddp", "cpu_zero2", *["alone"] * 3]
    assert [call.split()[0] for call in calls] == names and calls[-1] == calls[-2]
    # As many items a step, whatever shares them.
    assert ["accumulation_steps=4" in call for call in calls] == [name == "alone" for name in names]
    assert ["accumulation_steps=2" in call for call in calls] == [name != "alone" for name in names]
    assert ["step=sam" in call for call in calls] == [True] * 5 + [False] * 3
    write_json(tmp_path / "cpu_ddp.json", {"engine": {"name": "ddp", "processes": 1}})
    with pytest.raises(RuntimeError, match="cpu_ddp: ddp ran in its place, with 1 processes"):
        list(engines.check(bench))


def test_weights_packed_in_a_wrong_order_fail(monkeypatch):
    right, weight = nf4.ROUNDINGS["nf4"], torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    assert 0.1 < nf4.error(weight) <= nf4.GAP
    monkeypatch.setitem(nf4.ROUNDINGS, "nf4", lambda weight: right(weight).roll(1))
    assert nf4.error(weight) > 1


SIZES = [
    *((80, 99, None, "7b"), (17, 99, None, "1b"), (17.5, 30, None, "7b"), (80, 29, None, "1b"), (4, 99, None, "tiny")),
    *((80, 99, "1b", "1b"), (4, 99, "7b", "takes 17.0 GiB of memory, and 3.5 are free")),
    (80, 1, "1b", "takes 8 GiB of disk, and 1.0 are free"),
]


@pytest.mark.parametrize(("gib", "disk", "wanted", "size"), SIZES)
def test_the_largest_size_that_fits(tmp_path, monkeypatch, gib, disk, wanted, size):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory, "needed", {"7b": 17 * 2**30, "1b": 5 * 2**30, "tiny": 2**20}.get)
    monkeypatch.setattr(memory, "free", lambda: gib * 2**30)
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: type("", (), {"free": disk * 2**30}))
    if size in families.SIZES:
        assert memory.choose_size(wanted, tmp_path) == size
    else:
        with pytest.raises(BadInput, match=f"--size {wanted}: .*{size}"):
            memory.choose_size(wanted, tmp_path)


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


MISTAKES = [
    (["--size", "8b"], "did you mean '7b'"),
    (["--only", "speed,engine"], "did you mean 'engines'"),
    (["--family", "qwen3"], "did you mean 'qwen3-vl'"),
    (["--family", "qwen3-vl", "--size", "tiny"], "--size: of LLaVA-1.5"),
    (["--json", "other.json"], "--json other.json"),
    (["--json", "."], "is a folder"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, words, says):
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of this process, which goes on
    write_json(tmp_path / "other.json", {"kind": "mine"})
    refused(tmp_path, "safeeraser.selftest", *words, cwd=tmp_path, says=says)
    run.check_report(write_json(tmp_path / "earlier.json", {"kind": run.KIND}))  # which may be replaced
