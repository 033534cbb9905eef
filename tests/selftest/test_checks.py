"""Checks that can fail: a wrong estimate, an engine that ends elsewhere, responses that part; and what fits where."""

import functools
import math
import os
import shutil
import subprocess
import time
from dataclasses import replace

import psutil
import pytest
import torch
from helpers import alone as one_after_another
from safetensors.torch import save_file

from safeeraser.errors import BadInput
from safeeraser.selftest import engines, inference, launch, memory, nf4, speed
from safeeraser.selftest.machine import anonymous
from safeeraser.selftest.material import architecture, build_tokenizer
from safeeraser.selftest.precision import Text
from safeeraser.selftest.result import Figure, Result
from safeeraser.unlearn import machine
from safeeraser.unlearn.engine import Engine

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("times", [0.9, 1.15])
def test_an_estimate_that_is_wrong_fails(bench, monkeypatch, times):
    right = memory.estimate
    shutil.rmtree(bench.folder / "memory", ignore_errors=True)

    def wrong(*given):
        return [replace(part, device=times * part.device, cpu=times * part.cpu) for part in right(*given)]

    monkeypatch.setattr(memory, "estimate", wrong)
    _, over = memory.check(bench)
    assert over.name == "estimated over counted" and not over.good


@pytest.fixture(scope="module")
def trained(bench):
    """One process's run, which the checks share."""
    with one_after_another():
        return engines.alone(bench)


def test_an_engine_that_ends_elsewhere_fails(bench, trained, monkeypatch):
    """It takes half of each step's items."""
    monkeypatch.setattr(engines, "ON_CPUS", ("one_gpu",))
    monkeypatch.setattr(engines, "on_this_machine", lambda name: (Engine(), ""))
    train, words = engines.train, engines.words
    monkeypatch.setattr(engines, "train", lambda bench, folder, name, processes: train(bench, folder))
    monkeypatch.setattr(engines, "words", lambda bench, folder, processes=1: words(bench, folder, 2))
    (figure,) = engines.check(bench)
    assert not figure.good and figure.value > 0.05


def test_another_engine_in_its_place_is_an_error(bench, trained, monkeypatch):
    monkeypatch.setattr(engines, "ON_CPUS", ("cpu_ddp",))
    monkeypatch.setattr(engines, "train", lambda bench, folder, name, processes: None)
    (bench.folder / "engines" / "cpu_ddp").symlink_to(trained)
    with pytest.raises(RuntimeError, match="cpu_ddp: single ran in its place, with 1 processes"):
        list(engines.check(bench))


def test_a_run_that_fails_tells_its_last_lines(bench, tmp_path):
    with pytest.raises(RuntimeError, match=r"error: (.|\n)*exit code 2"):
        engines.train(replace(bench, folder=tmp_path), tmp_path / "run")


def test_an_engine_that_lacks_something_is_not_tried(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    engine, lacks = engines.on_this_machine("ddp")
    assert engine.processes == 1 and lacks == "one GPU is here, and shares nothing out"
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    engine, lacks = engines.on_this_machine("zero3")
    assert engine.processes == 1 and lacks == "zero3 is DeepSpeed's, which is not installed"


def test_a_lock_that_nobody_holds_any_more(tmp_path, monkeypatch):
    """torch waits for it without end, and a run would only seem to take long."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(engines, "get_default_build_root", lambda: str(tmp_path / "none"))
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    assert engines.waits_for_nobody() == ""  # someone may be compiling
    os.utime(lock, (time.time() - engines.HELD_BY - 9,) * 2)
    with open(lock):
        assert engines.waits_for_nobody() == "", "someone here is at it"
    why = engines.waits_for_nobody()
    assert "remove the file lock of deepspeed_shm_comm" in why and anonymous(why) == why
    waiting = subprocess.Popen(["sleep", "60"])
    monkeypatch.setattr(launch, "LOOK", 0.1)
    with pytest.raises(RuntimeError, match=r"remove .*lock"):
        launch.finish(waiting, tmp_path / "log", engines.waits_for_nobody)
    assert waiting.returncode == -9, "it is not left behind"
    os.utime(lock, (0, 0))
    with open(lock), pytest.raises(RuntimeError, match=r"remove .*lock"):
        list(engines.check(None))


def test_distance_by_hand(tmp_path):
    one = {"x.lora_B.weight": torch.tensor([3.0, 4.0]), "x.lora_A.weight": torch.tensor([1.0])}
    save_file({name: value * 1.1 for name, value in one.items()}, tmp_path / "adapter_model.safetensors")
    assert engines.distance(engines.adapter(tmp_path), one) == pytest.approx((0.1, 0.1), rel=1e-5)


def test_the_largest_size_that_fits(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "needed", functools.cache(memory.needed))
    assert memory.choose_size(None, tmp_path) == "tiny"
    memory.needed.cache_clear()  # on a GPU the dtype is another
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for gib, size in ((80, "7b"), (20, "1b"), (4, "tiny")):
        monkeypatch.setattr(memory, "free", lambda gib=gib: gib * 2**30)
        assert memory.choose_size(None, tmp_path) == size
    with pytest.raises(BadInput, match=r"--size 7b: a step takes \d\d\.\d GiB of memory, and 3\.5 are free"):
        memory.choose_size("7b", tmp_path)


def test_a_disk_that_is_too_small(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "DISK", {"tiny": 10**9})
    with pytest.raises(BadInput, match="TMPDIR names another"):
        memory.choose_size("tiny", tmp_path)


def test_the_memory_of_the_machine_is_what_is_free():
    assert memory.free() == pytest.approx(psutil.virtual_memory().available, rel=0.5)


def test_the_sizes_are_llavas():
    seven, small = architecture("7b"), architecture("1b")
    assert (seven.text_config.hidden_size, seven.text_config.num_hidden_layers) == (4096, 32)
    assert (seven.image_token_id, seven.text_config.vocab_size, seven.image_seq_length) == (32000, 32064, 576)
    assert small.vision_config.hidden_size == 1024 and small.text_config.hidden_size == 2048


def test_responses_that_part():
    tokenizer = build_tokenizer(500, [])
    words = tokenizer.convert_ids_to_tokens(range(500))
    logits = torch.zeros(3, 502)
    logits[:, 490], logits[:, 480], logits[:, 470] = 3.0, 2.9, 1.0
    text = Text([490, 490, 490], logits)
    deviation = logits[0].std().item()
    ends = [2, 480]
    assert inference.parted(text, f"{words[490]} {words[490]} {words[490]}", tokenizer, ends) is None
    assert inference.parted(text, f"{words[490]} {words[470]}", tokenizer, ends) == pytest.approx(2 / deviation)
    # It ended where this one went on: by the token of those that end a response that was nearest.
    assert inference.parted(text, f"{words[490]}", tokenizer, ends) == pytest.approx(0.1 / deviation, rel=1e-5)
    assert inference.parted(text, " ".join([words[490]] * 4), tokenizer, ends) == math.inf


def test_a_decoder_that_forgets_its_gaps_fails(bench, monkeypatch):
    """Shorter rows then see what stands in the gap before them."""
    from safeeraser.generation.context import Context

    read = Context.read

    def forgetful(self, rows, inputs=None):
        read(self, rows, inputs)
        self.mask = torch.ones_like(self.mask)

    monkeypatch.setattr(Context, "read", forgetful)
    figures = list(inference.check(bench))
    assert not all(figure.good for figure in figures)


def test_weights_packed_in_a_wrong_order_fail(monkeypatch):
    right = nf4.models.ROUNDINGS["nf4"]
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    assert nf4.error(weight) <= nf4.GAP
    monkeypatch.setitem(nf4.models.ROUNDINGS, "nf4", lambda weight: right(weight).roll(1))
    assert nf4.error(weight) > 1


def test_operations_of_a_step_by_hand(bench):
    """The tiny model's own numbers."""
    trainer = speed.load_trainer(bench.settings(bench.folder / "counted", max_train_steps=1))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    layers = 2 * (4 * 64**2 + 3 * 64 * 128 + 2 * 64)
    lora = 2 * 32 * (4 * (64 + 64) + 3 * (64 + 128))
    projector = 32 * 64 + 64 + 64 * 64 + 64
    vision = sum(w.numel() for name, w in trainer.model.named_parameters() if ".vision_tower." in name)
    rows, length = batch["inputs"]["input_ids"].shape
    wanted = (4 * layers + 6 * lora) * rows * length + 4 * 502 * 64 * len(batch["read"])
    wanted += (6 * projector + 2 * vision) * rows * 16
    assert speed.step_operations(trainer, batch) == wanted


def test_a_figure_and_its_bounds():
    assert Figure("", 1.0, least=0.5, most=1.0).good and not Figure("", 1.1, most=1.0).good
    assert not Figure("", math.nan, most=1.0).good and not Figure("", math.nan).good
    assert Figure("", math.nan).record["value"] == "nan"
    assert Figure("", 0.5, most=1.05, unit="%").bound == "at most 105.0%"
    assert Result("x", [Figure("", None, note="why")]).outcome == "skipped" == Result("x", skipped="why").outcome
    assert Result("x", [Figure("", 1.0)]).outcome == "pass" != Result("x", [Figure("", 1.0)], error="no").outcome


def test_what_is_not_told(monkeypatch, tmp_path):
    home = tmp_path / "Ada Lovelace"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MY_API_KEY", "sk-123456")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    told = anonymous(f'File "{home}/work/model.py", line 3, said ada\'s sk-123456 of /data/ada/x.json, 1/2 as adaptive')
    assert told == 'File ".../model.py", line 3, said ...\'s ... of .../x.json, 1/2 as adaptive'
