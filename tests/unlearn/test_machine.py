"""What an engine asks of the machine is found before a model is loaded: GPUs, DeepSpeed, a compiler for its Adam."""

import os
import sys
import sysconfig

import pytest
import torch
from helpers import MODEL, VAL, run

from safeeraser.errors import BadInput
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.preflight.machine import check_machine

from .given import refuses

OFFLOADING = Engine("zero2", 2, offload_optimizer=True, here=2)


def test_without_a_compiler_its_adam_is_refused_where_it_is_offloaded(monkeypatch, tmp_path):
    """ninja is found beside Python too, where a virtual environment that is not activated has it."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    monkeypatch.setenv("CXX", f"{tmp_path / 'clang++'} -O2")
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    for engine in (Engine(), Engine("ddp", 2), Engine("zero3", 2), Engine("fsdp", 2, offload_weights=True)):
        check_machine(engine)
    with pytest.raises(BadInput, match=r"compiled here, without .*clang.* and ninja \("):
        check_machine(OFFLOADING)
    (tmp_path / "built" / "cpu_adam").mkdir(parents=True)
    (file := tmp_path / "built" / "cpu_adam" / "cpu_adam.so").touch()
    check_machine(OFFLOADING)  # what was compiled earlier needs none
    file.unlink()
    for name in ("clang++", "ninja"):
        (tmp_path / name).touch(0o755)
    check_machine(OFFLOADING)


def test_deepspeed_that_is_not_installed_and_fewer_gpus_than_processes(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(BadInput, match=r"zero2 is DeepSpeed's, which is not installed"):
        check_machine(Engine("zero2", 2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadInput, match="its 2 processes want a GPU each, and 1 is here"):
        check_machine(Engine("ddp", 2, here=2))
    check_machine(Engine("ddp", 2, here=1))  # two machines with one each


def test_loading_processes_without_room_in_shared_memory_are_refused(tmp_path):
    """Which would end at its first full moment in a wait for ever."""
    for words in (["dry_run=true"], []):
        said = refuses(tmp_path, "workers=2", "trainer.dataloader_prefetch_factor=100000000", *words)
        assert said.startswith("workers=2: 200000016 batches of pictures take ") and "--ipc=host" in said


def test_a_gpu_whose_driver_is_too_old_for_torch_is_refused_not_left_idle(monkeypatch, tmp_path, capsys):
    """Nothing is trained or answered on the CPU beside it, but where that is asked for; a plan may be for another."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 535.54.03\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    says = "built for CUDA 13.0 and cannot use the GPU here with its driver, 535.54.03;"
    for words in (["dry_run=true"], []):
        assert says in refuses(tmp_path, *words)
    asked = ("--model_path", MODEL, "--eval_file", VAL, "--output_file", tmp_path / "answers.json")
    done = run("ckpt_infer", *asked)
    assert says in done.stderr and done.returncode == 2 and not list(tmp_path.glob("answers*"))
    assert "give the server's --base_url" in run("ckpt_infer", *asked, "--backend", "openai").stderr
    assert run("forget", f"model_path={MODEL}", "dry_run=true", "gpu_memory=24").returncode == 0
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BadInput, match="with its driver, of a version that nvidia-smi does not report;"):
        check_machine(Engine())
