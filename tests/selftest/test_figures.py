"""What the self-test compares, with values worked out by hand: a figure and its bounds, distances, what parts and what
fits; and a report tells of nobody."""

import math
import os
import sys
import time

import pytest
import torch
from helpers import write_json
from safetensors.torch import save_file

from safeeraser.errors import BadInput
from safeeraser.selftest import engines, inference, memory, nf4, run, speed
from safeeraser.selftest.__main__ import main
from safeeraser.selftest.machine import anonymous, describe
from safeeraser.selftest.material import build_tokenizer
from safeeraser.selftest.precision import Observed, Text, compare, confused, off_by
from safeeraser.selftest.result import Figure, Result


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
    word, logits = tokenizer.convert_ids_to_tokens(range(500)), torch.zeros(3, 502)
    logits[:, 490], logits[:, 480], logits[:, 470] = 3.0, 2.9, 1.0
    text, deviation, ends = Text([490, 490, 490], logits), logits[0].std().item(), [2, 480]
    said = {2: 0.1, 4: math.inf, 3: None}  # it ended where this one went on: by the likeliest that ends; it goes on
    found = {count: inference.parted(text, " ".join([word[490]] * count), tokenizer, ends) for count in said}
    assert found == {2: pytest.approx(0.1 / deviation, rel=1e-5), 4: math.inf, 3: None}
    assert inference.parted(text, f"{word[490]} {word[470]}", tokenizer, ends) == pytest.approx(2 / deviation)
    assert inference.parted(Text([490, 490, 480], logits), f"{word[490]} {word[490]}", tokenizer, ends) is None


def test_the_distance_of_two_adapters(tmp_path):
    one = {"x.lora_B.weight": torch.tensor([3.0, 4.0]), "x.lora_A.weight": torch.tensor([1.0])}
    other = {name: value * (1.1 + (".lora_A." in name)) for name, value in one.items()}
    save_file(other, tmp_path / "adapter_model.safetensors")
    assert engines.distance(engines.adapter(tmp_path), one) == pytest.approx((0.1, 1.1), rel=1e-5)


def test_weights_packed_in_a_wrong_order_fail(monkeypatch):
    right, weight = nf4.models.ROUNDINGS["nf4"], torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    assert 0.1 < nf4.error(weight) <= nf4.GAP
    monkeypatch.setitem(nf4.models.ROUNDINGS, "nf4", lambda weight: right(weight).roll(1))
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
    if size in run.SIZES:
        assert memory.choose_size(wanted, tmp_path) == size
    else:
        with pytest.raises(BadInput, match=f"--size {wanted}: .*{size}"):
            memory.choose_size(wanted, tmp_path)


def test_a_step_has_the_operations_worked_out(bench):
    trainer = speed.load_trainer(bench.settings(bench.folder / "counted", max_train_steps=1))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    layers, lora = 2 * (4 * 64**2 + 3 * 64 * 128 + 2 * 64), 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128))
    projector = 32 * 64 + 64 + 64 * 64 + 64
    vision = sum(w.numel() for name, w in trainer.model.named_parameters() if ".vision_tower." in name)
    rows, length = batch["inputs"]["input_ids"].shape
    wanted = (4 * layers + 6 * lora) * rows * length + 4 * 502 * 64 * len(batch["read"])
    assert speed.step_operations(trainer, batch) == wanted + (6 * projector + 2 * vision) * rows * 16


def test_a_lock_that_nobody_holds_any_more(tmp_path, monkeypatch):
    """torch waits for it without end, and a run would only seem to take long."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(engines, "get_default_build_root", lambda: str(tmp_path / "none"))
    lock = write_json(tmp_path / "deepspeed_shm_comm" / "lock", "")
    assert engines.waits_for_nobody() == ""  # someone may be compiling
    os.utime(lock, (time.time() - engines.HELD_BY - 9,) * 2)
    with open(lock):
        assert engines.waits_for_nobody() == "", "someone here is at it"
    why = engines.waits_for_nobody()
    assert "remove the file lock of deepspeed_shm_comm" in why and anonymous(why) == why


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
    (["--json", "other.json"], "--json other.json"),
    (["--json", "."], "is a folder"),
]


@pytest.mark.parametrize(("words", "says"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    before = write_json(tmp_path / "other.json", {"kind": "mine"}).read_bytes()
    monkeypatch.setattr(sys, "argv", ["selftest", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)  # of this process, which goes on
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr().err
    assert stop.value.code == 2 and told.startswith("error: ") and says in told and told.count("\n") == 1
    assert (tmp_path / "other.json").read_bytes() == before
    run.check_report(write_json(tmp_path / "earlier.json", {"kind": run.KIND}))  # which may be replaced
