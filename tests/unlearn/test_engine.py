"""Engines: read from accelerate's file or from its launcher's environment, chosen by the script, checked in advance.

The machine is checked before a model is loaded: GPUs, shared memory, DeepSpeed, a compiler for DeepSpeed's Adam.
"""

import os
import subprocess
import sys
import sysconfig
from unittest.mock import patch

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from families.recorded import Recorded
from helpers import MODEL, ROOT, VAL, read_beside, refusal, run, write_json

from safeeraser.errors import BadInput
from safeeraser.model.load import family_of
from safeeraser.unlearn.config.engine import Engine, check_engine, engine_of, share_out_layers
from safeeraser.unlearn.preflight.machine import check_machine

from .given import refuses, settings

FILES = [ROOT / "config" / "accelerate_config.yaml", *sorted((ROOT / "config" / "accelerate").glob("*.yaml"))]
CASES = read_beside(__file__, "golden/engines.yaml")


def from_file(path):
    return engine_of(settings("dry_run=true", f"engine={path}"))


def environment_of(path):
    """The environment variables that accelerate's launcher sets for a process that it starts with this file."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "forget.py"])
    arguments, *_ = _validate_launch_command(arguments)
    environment = {}
    with patch.dict(os.environ):
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ""
            _, environment = prepare_deepspeed_cmd_env(arguments)
        elif arguments.multi_gpu or arguments.use_fsdp:
            environment = prepare_multi_gpu_env(arguments)
        else:
            _, environment = prepare_simple_launcher_cmd_env(arguments)
    if int(arguments.num_processes) > 1:
        environment |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(arguments.num_processes))  # by torchrun
    return environment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_and_environment_tell_the_same(path):
    found = from_file(path)
    with patch.dict(os.environ, environment_of(path), clear=True):
        launched = engine_of(settings())
    assert found == launched == Engine(**CASES["files"][path.stem])
    assert found.here == launched.here == found.processes


def test_files_of_other_forms(tmp_path):
    """A file may name DeepSpeed's own config file, several machines, or offloading under FSDP."""
    inner = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}, "gradient_accumulation_steps": 4}
    outer = {"distributed_type": "DEEPSPEED", "num_processes": 4, "num_machines": 2, "mixed_precision": "no"}
    outer["deepspeed_config"] = {"deepspeed_config_file": str(write_json(tmp_path / "ds.json", inner))}
    found = from_file(write_json(tmp_path / "engine.yaml", outer))
    assert found == Engine("zero3", 4, accumulation=4, offload_weights=True) and found.here == 2
    value = yaml.safe_load((ROOT / "config/accelerate/fsdp2.yaml").read_text()) | {"use_cpu": True}
    value["fsdp_config"]["fsdp_offload_params"] = True
    found = from_file(write_json(tmp_path / "engine.yaml", value))
    assert found == Engine("fsdp", 2, mixed_precision="bf16", offload_weights=True) and found.here == 0


def test_a_file_that_is_none_of_accelerates_is_refused(tmp_path):
    path = tmp_path / "engine.yaml"
    for text in ("a: [1", "- a list", "", "num_proceses: 2", "num_processes: many"):
        path.write_text(text)
        assert refusal(from_file, path).startswith(f"engine={path}: not a file that accelerate launch could use (")


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl"])
def test_fsdp_shares_out_the_layers_of_whatever_language_model_there_is(family):
    """It wraps nothing else, as the dry run's memory estimate assumes. fsdp2.yaml names no class of layers."""
    model = Recorded(family).load()
    with patch.dict(os.environ, environment_of(ROOT / "config/accelerate/fsdp2.yaml")):
        share_out_layers(model, family_of(Recorded(family).path))
        policy = fsdp2_prepare_auto_wrap_policy(FullyShardedDataParallelPlugin(), model)
    assert [each for each in model.modules() if policy(each)] == list(model.model.language_model.layers)


@pytest.mark.parametrize("says", CASES["refused"])
def test_an_engine_that_contradicts_the_settings_is_refused(says):
    engine, words = CASES["refused"][says]
    assert says in refusal(lambda: check_engine(Engine(**engine), settings(*words.split()), items=48))
    check_engine(Engine("ddp", 24, mixed_precision="bf16"), settings("dtype=auto", "batch_size=2"), items=48)
    check_engine(Engine("zero2", 2, offload_optimizer=True), settings("trainer.optim=adamw_torch"), items=48)


def test_an_engine_that_is_named_but_not_launched_or_that_accelerate_would_replace(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="ACCELERATE_CONFIG="):
        engine_of(settings(f"engine={FILES[0]}"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert "engine: fsdp was asked for, but accelerate runs" in refuses(tmp_path)


@pytest.mark.parametrize(("gpus", "variables", "chosen"), CASES["script"])
def test_the_script_takes_one_process_where_there_is_nothing_to_share_among(tmp_path, gpus, variables, chosen):
    """It passes the same file to the dry run and to the launcher."""
    listed = "".join(f"echo {number}\n" for number in range(gpus)) + f"exit {0 if gpus else 9}\n"
    tells = dict.fromkeys(("python", "accelerate"), 'echo "$(basename "$0") $*"\n') | {"nvidia-smi": listed}
    for name, text in tells.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **variables}
    script = ["bash", ROOT / "scripts" / "forget_lora.bash", "seed=1"]
    done = subprocess.run(script, env=env, capture_output=True, text=True, check=True)
    page = "forget.py --config-name forget_lora.yaml seed=1"
    dry, launched = f"python {page} dry_run=true engine={chosen}", f"accelerate launch --config_file {chosen} {page}"
    assert done.stdout.splitlines() == [dry, launched]


OFFLOADING = Engine("zero2", 2, offload_optimizer=True, here=2)


def test_without_a_compiler_its_adam_is_refused_where_it_is_offloaded(monkeypatch, tmp_path):
    """ninja is also found next to Python, where a virtual environment that is not activated has it."""
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
    check_machine(OFFLOADING)  # an Adam that was compiled earlier needs no compiler
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
    with pytest.raises(BadInput, match="its 2 processes need a GPU each, and this machine has 1;"):
        check_machine(Engine("ddp", 2, here=2))
    check_machine(Engine("ddp", 2, here=1))  # two machines with one GPU each


def test_loading_processes_without_room_in_shared_memory_are_refused(tmp_path):
    """Otherwise the run would wait forever as soon as shared memory is full."""
    for words in (["dry_run=true"], []):
        said = refuses(tmp_path, "workers=2", "trainer.dataloader_prefetch_factor=100000000", *words)
        assert said.startswith("workers=2: 200000016 batches of pictures take ") and "--ipc=host" in said


def test_a_gpu_whose_driver_is_too_old_for_torch_is_refused_not_left_idle(monkeypatch, tmp_path, capsys):
    """No command falls back to the CPU. A server can still answer, and a dry run can still be for another GPU."""
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
