"""What an engine wants of the machine, found out before a model is loaded: GPUs, DeepSpeed, a compiler for its Adam."""

import sys
import sysconfig
from types import SimpleNamespace

import pytest
import torch
from helpers import MODEL, ROOT, TRAIN, refused

from safeeraser.errors import BadInput
from safeeraser.unlearn import machine
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.machine import check_machine, tools_lacking

pytestmark = pytest.mark.slow

OFFLOADING = Engine("zero2", 2, offload_optimizer=True, here=2)
GIVEN = (f"data_path={TRAIN}", f"model_path={MODEL}")


@pytest.fixture
def without_compiler(monkeypatch, tmp_path_factory):
    """A machine that has compiled nothing yet, and has nothing to do it with."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path_factory.mktemp("extensions")))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


@pytest.fixture
def builder(monkeypatch):
    """DeepSpeed's builder, which keeps count of how often it is asked."""
    asked = []
    builder = lambda: SimpleNamespace(load=lambda **_: asked.append(1))  # noqa: E731
    monkeypatch.setitem(sys.modules, "deepspeed.ops.op_builder", SimpleNamespace(CPUAdamBuilder=builder))
    return asked


def test_a_dry_run_finds_that_there_is_no_compiler(tmp_path, monkeypatch, without_compiler):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    engine = ROOT / "config" / "accelerate_config.yaml"
    line = refused(
        tmp_path, "forget", *GIVEN, "dry_run=true", f"engine={engine}", says="cannot be compiled", before="deepspeed"
    )
    assert "a C++ compiler (no-such-compiler; Debian: g++) missing" in line
    assert "ACCELERATE_CONFIG=config/accelerate/ddp.yaml" in line


def test_a_run_finds_it_before_anything_is_loaded(tmp_path, monkeypatch, without_compiler):
    told = {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "2", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}
    for name, value in {"MIXED_PRECISION": "no", **told}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    save_dir = f"save_dir={tmp_path / 'run'}"
    refused(tmp_path, "forget", *GIVEN, save_dir, says="a C++ compiler (no-such-compiler", before="deepspeed")


def test_what_the_compiler_says_is_told(monkeypatch, tmp_path):
    """A compiler that is there and fails: its own line, of all that torch and ninja print."""
    compiler = tmp_path / "c++"
    fails = "echo 'in file a.h:' >&2; echo 'a.h:1: fatal error: omp.h: not found' >&2; exit 1"
    compiler.write_text(f"#!/bin/sh\ncase $1 in -v | --version | -dump*) echo 13.1.0 ;; *) {fails} ;; esac\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "extensions"))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert tools_lacking() == []
    with pytest.raises(BadInput, match=r"\(offload_optimizer_device\) cannot be compiled: a.h:1: fatal error: omp.h"):
        check_machine(OFFLOADING, build=True)
    check_machine(OFFLOADING, build=False)  # all tools are there: a dry run compiles nothing


def test_each_tool_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda *_: str(tmp_path))
    lacking = " ".join(tools_lacking())
    assert "(c++; Debian: g++)" in lacking and str(tmp_path / "Python.h") in lacking and "pip install ninja" in lacking


def test_ninja_is_found_beside_python(monkeypatch, builder):
    """A virtual environment that was not activated: its ninja is not on PATH, and torch looks nowhere else."""
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(
        machine.shutil, "which", lambda name: name != "ninja" or "scripts" in machine.os.environ["PATH"]
    )
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: f"/somewhere/{kind}")
    monkeypatch.setattr(machine.Path, "is_file", lambda _: True)
    check_machine(OFFLOADING, build=False)
    assert machine.os.environ["PATH"] == "/usr/bin:/bin:/somewhere/scripts" and not builder


def test_nothing_is_built_where_nothing_is_offloaded(builder):
    for engine in (Engine(), Engine("ddp", 2), Engine("zero3", 2), Engine("fsdp", 2, offload_weights=True)):
        check_machine(engine, build=True)
    assert not builder
    check_machine(OFFLOADING, build=True)
    assert builder == [1]


def test_what_was_compiled_earlier_needs_no_compiler(builder, without_compiler):
    check_machine(OFFLOADING, build=False)
    assert builder == [1]


def test_deepspeed_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(machine, "find_spec", lambda _: None)
    with pytest.raises(BadInput, match=r"zero2 is DeepSpeed's, which is not installed; pip install -e '.\[train\]'"):
        check_machine(Engine("zero2", 2), build=True)
    check_machine(Engine("ddp", 2), build=True)


def test_fewer_gpus_than_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refused(
        tmp_path,
        "forget",
        *GIVEN,
        "dry_run=true",
        f"engine={ROOT / 'config' / 'accelerate' / 'ddp.yaml'}",
        says="its 2 processes want a GPU each, and 1 is here",
    )
    check_machine(Engine("ddp", 2, here=1), build=True)  # two machines with one each
    check_machine(Engine("ddp", 2), build=True)  # on CPUs
