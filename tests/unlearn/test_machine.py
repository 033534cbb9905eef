"""What an engine asks of the machine is found before a model is loaded: GPUs, DeepSpeed, a compiler for its Adam."""

import os
import sys
import sysconfig
from unittest.mock import Mock

import pytest
import torch
from helpers import MODEL, VAL, run

from safeeraser.errors import BadInput
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.machine import check_machine, tools_lacking

from .given import refuses

OFFLOADING = Engine("zero2", 2, offload_optimizer=True, here=2)


def test_its_adam_is_built_where_it_is_offloaded_or_where_a_tool_is_missing(monkeypatch, tmp_path):
    """Each tool is named; ninja is found beside Python, where a virtual environment that is not activated has it."""
    builder = Mock()  # in the place of DeepSpeed's
    monkeypatch.setitem(sys.modules, "deepspeed.ops.op_builder", Mock(CPUAdamBuilder=lambda: builder))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    compiler, headers, ninja = tools_lacking()
    assert "(c++; Debian: g++)" in compiler and str(tmp_path / "Python.h") in headers and "pip install ninja" in ninja
    for name in ("clang++", "ninja", "Python.h"):
        (tmp_path / name).touch(0o755)
    monkeypatch.setenv("CXX", f"{tmp_path / 'clang++'} -O2")
    for engine in (Engine(), Engine("ddp", 2), Engine("zero3", 2), Engine("fsdp", 2, offload_weights=True)):
        check_machine(engine, build=True)
    check_machine(OFFLOADING, build=False)
    assert os.environ["PATH"] == f"{tmp_path / 'nothing'}{os.pathsep}{tmp_path}" and tools_lacking() == []
    assert not builder.load.called
    check_machine(OFFLOADING, build=True)
    builder.load.side_effect = RuntimeError("in file a.h:\na.h:1: fatal error: omp.h: not found\n")
    with pytest.raises(BadInput, match=r"\(offload_optimizer_device\) cannot be compiled: a.h:1: fatal error: omp.h"):
        check_machine(OFFLOADING, build=True)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BadInput, match=r"cannot be compiled: a C\+\+ compiler \(no-such-compiler; .*\) missing; .*ddp"):
        check_machine(OFFLOADING, build=False)
    builder.load.side_effect = None  # what was compiled earlier needs none
    check_machine(OFFLOADING, build=False)
    assert builder.load.call_count == 4


def test_deepspeed_that_is_not_installed_and_fewer_gpus_than_processes(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(BadInput, match=r"zero2 is DeepSpeed's, which is not installed"):
        check_machine(Engine("zero2", 2), build=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadInput, match="its 2 processes want a GPU each, and 1 is here"):
        check_machine(Engine("ddp", 2, here=2), build=True)
    check_machine(Engine("ddp", 2, here=1), build=True)  # two machines with one each


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
        check_machine(Engine(), build=False)
