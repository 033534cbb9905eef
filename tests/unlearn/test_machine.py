"""What an engine asks of the machine is found before a model is loaded: GPUs, DeepSpeed, a compiler for its Adam."""

import os
import sys
import sysconfig
from types import SimpleNamespace

import pytest
import torch
from helpers import run

from safeeraser.errors import BadInput
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.machine import check_machine, tools_lacking

from .built import GIVEN

OFFLOADING = Engine("zero2", 2, offload_optimizer=True, here=2)


def test_its_adam_is_built_where_it_is_offloaded_or_where_a_tool_is_missing(monkeypatch, tmp_path):
    """Each tool is named; ninja is found beside Python, where a virtual environment that is not activated has it."""
    builds = []
    builder = SimpleNamespace(load=lambda **_: builds.append(1))  # DeepSpeed's, which counts how often it is asked
    monkeypatch.setitem(sys.modules, "deepspeed.ops.op_builder", SimpleNamespace(CPUAdamBuilder=lambda: builder))
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
    assert not builds and os.environ["PATH"].split(os.pathsep) == [str(tmp_path / "nothing"), str(tmp_path)]
    assert tools_lacking() == []
    check_machine(OFFLOADING, build=True)
    monkeypatch.setenv("CXX", "no-such-compiler")  # what was compiled earlier needs none
    check_machine(OFFLOADING, build=False)
    assert builds == [1, 1]


def test_deepspeed_that_is_not_installed_and_fewer_gpus_than_processes(monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    with pytest.raises(BadInput, match=r"zero2 is DeepSpeed's, which is not installed"):
        check_machine(Engine("zero2", 2), build=True)
    check_machine(Engine("ddp", 2), build=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInput, match="its 2 processes want a GPU each, and 1 is here"):
        check_machine(Engine("ddp", 2, here=2), build=True)
    check_machine(Engine("ddp", 2, here=1), build=True)  # two machines with one each


@pytest.fixture(params=["none", "one that fails"])
def compiler(request, monkeypatch, tmp_path):
    """A machine that has compiled nothing yet, and has nothing to do it with."""
    there = tmp_path / "c++"
    if request.param != "none":
        fails = "echo 'in file a.h:' >&2; echo 'a.h:1: fatal error: omp.h: not found' >&2; exit 1"
        there.write_text(f"#!/bin/sh\ncase $1 in -v | --version | -dump*) echo 13.1.0 ;; *) {fails} ;; esac\n")
        there.chmod(0o755)
    for name, value in {"CXX": there, "TORCH_EXTENSIONS_DIR": tmp_path / "ext", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, str(value))
    return "fatal error: omp.h" if there.exists() else f"a C++ compiler ({there}; Debian: g++) missing"


@pytest.mark.slow
def test_a_run_is_refused_with_what_the_compiler_says(monkeypatch, tmp_path, compiler):
    told = {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
    for name, value in {"MIXED_PRECISION": "no", **told}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    done = run("forget", *GIVEN, f"save_dir={tmp_path / 'run'}")
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "(offload_optimizer_device) cannot be compiled: " in line and compiler in line
    assert "ACCELERATE_CONFIG=config/accelerate/ddp.yaml" in line and not (tmp_path / "run").exists()
