"""Engines: read alike from accelerate's file and its launcher's environment, chosen by the script, checked first."""

import json
import os
import subprocess
from unittest.mock import patch

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from helpers import MODEL, ROOT, TRAIN, run

from safeeraser.errors import BadInput
from safeeraser.unlearn.engine import Engine, check_engine, engine_of

from .given import settings

FILES = [ROOT / "config" / "accelerate_config.yaml", *sorted((ROOT / "config" / "accelerate").glob("*.yaml"))]
ENGINES = {
    "accelerate_config": Engine("zero2", 2, mixed_precision="bf16", offload_optimizer=True),
    "one_gpu": Engine("single", 1),
    "ddp": Engine("ddp", 2, mixed_precision="bf16"),
    "zero3": Engine("zero3", 2, mixed_precision="bf16"),
    "fsdp2": Engine("fsdp", 2, mixed_precision="bf16"),
    "cpu_ddp": Engine("ddp", 2),
    "cpu_zero2": Engine("zero2", 2),
    "cpu_zero3": Engine("zero3", 2),
}


def from_file(path):
    return engine_of(settings("dry_run=true", f"engine={path}"))


def from_environment(path):
    """What a process would find that accelerate's launcher starts with this file."""
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
    with patch.dict(os.environ, environment, clear=True):
        return engine_of(settings())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_and_environment_tell_the_same(path):
    found, launched = from_file(path), from_environment(path)
    assert found == launched == ENGINES[path.stem]
    assert found.here == launched.here == found.processes


def test_files_of_other_forms(tmp_path):
    """DeepSpeed's own configuration; several machines; offloading under FSDP."""
    inner = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}, "gradient_accumulation_steps": 4}
    (tmp_path / "ds.json").write_text(json.dumps(inner))
    outer = {"distributed_type": "DEEPSPEED", "num_processes": 4, "num_machines": 2, "mixed_precision": "no"}
    outer["deepspeed_config"] = {"deepspeed_config_file": str(tmp_path / "ds.json")}
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(outer))
    found = from_file(tmp_path / "engine.yaml")
    assert found == Engine("zero3", 4, accumulation=4, offload_weights=True) and found.here == 2
    assert found.record.items() == {**found.record, "name": "zero3", "processes": 4, "accumulation": 4}.items()
    assert "here" not in found.record and "mixed_precision" not in found.record
    value = yaml.safe_load((ROOT / "config/accelerate/fsdp2.yaml").read_text())
    value["fsdp_config"]["fsdp_offload_params"], value["use_cpu"] = True, True
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(value))
    found = from_file(tmp_path / "engine.yaml")
    assert found == Engine("fsdp", 2, mixed_precision="bf16", offload_weights=True) and found.here == 0


@pytest.mark.parametrize("text", [None, "a: [1", "- a list", "", "num_proceses: 2", "num_processes: many"])
def test_a_file_that_is_none_of_accelerates_is_refused(tmp_path, text):
    path = tmp_path / "engine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput) as error:
        from_file(path)
    assert str(error.value).startswith(f"engine={path}: not a file that accelerate launch could use (")


@pytest.mark.parametrize(
    ("engine", "words", "says"),
    [
        (Engine("zero2", 2, accumulation=8), "", "says gradient_accumulation_steps 8, the settings 16"),
        (Engine("zero2", 2, mixed_precision="bf16"), "", "says mixed_precision bf16, the settings dtype=float32"),
        (Engine("ddp", 25), "batch_size=2", "25 processes for 48 items, which make 24 whole micro-steps of batch_size"),
        (Engine("zero3", 2), "quantization=nf4", "quantization=nf4: zero3 cannot shard 4-bit weights"),
        (Engine("fsdp", 2), "finetune=full forget_loss=kl", "finetune=full: kl compares with the untouched model"),
        (Engine("fsdp", 2), "step=sam", "step=sam: moves the weights, of which fsdp gives each process a part"),
        (Engine(), "step=sam dtype=float16", "step=sam: not in float16"),
        (Engine("zero3", 2), "mask.top=0.5", "mask: compares the gradients of whole weights, which zero3 shares out"),
    ],
)
def test_an_engine_that_contradicts_the_settings_is_refused(engine, words, says):
    with pytest.raises(BadInput) as error:
        check_engine(engine, settings(*words.split()), items=48)
    assert says in str(error.value)


def test_an_engine_that_fits_the_settings_is_taken():
    fitting = [Engine("ddp", 24, mixed_precision="bf16"), Engine("zero2", 2, accumulation=16), Engine("zero3", 48)]
    for other, more in zip(fitting, ("batch_size=2", "finetune=full", "quantization=none"), strict=True):
        check_engine(other, settings("dtype=auto", more), items=48)


def test_an_engine_that_is_named_but_not_launched_or_that_accelerate_would_replace(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="ACCELERATE_CONFIG="):
        engine_of(settings(f"engine={FILES[0]}"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", f"save_dir={tmp_path / 'run'}")
    done = run("forget", *given)
    assert done.returncode == 2 and not list(tmp_path.iterdir())
    assert done.stderr.splitlines()[-1].startswith("error: engine: fsdp was asked for, but accelerate runs")


@pytest.mark.parametrize(
    ("gpus", "variables", "chosen"),
    [
        (0, {}, "config/accelerate/one_gpu.yaml"),
        (1, {}, "config/accelerate/one_gpu.yaml"),
        (2, {}, "config/accelerate_config.yaml"),
        (2, {"CUDA_VISIBLE_DEVICES": "3"}, "config/accelerate/one_gpu.yaml"),
        (0, {"CUDA_VISIBLE_DEVICES": "0,1"}, "config/accelerate_config.yaml"),
        (2, {"ACCELERATE_CONFIG": "config/accelerate/ddp.yaml"}, "config/accelerate/ddp.yaml"),
    ],
)
def test_the_script_takes_one_process_where_there_is_nothing_to_share_among(tmp_path, gpus, variables, chosen):
    """And says the same to the dry run and to the launcher."""
    for name in ("python", "accelerate", "nvidia-smi"):
        lines = "".join(f"echo {number}\n" for number in range(gpus)) + f"exit {0 if gpus else 9}\n"
        tells = lines if name == "nvidia-smi" else 'echo "$(basename "$0") $*"\n'
        (tmp_path / name).write_text(f"#!/bin/sh\n{tells}")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **variables}
    script = ["bash", ROOT / "scripts" / "forget_lora.bash", "seed=1"]
    done = subprocess.run(script, env=env, capture_output=True, text=True, check=True)
    page = "forget.py --config-name forget_lora.yaml seed=1"
    assert done.stdout.splitlines() == [
        f"python {page} dry_run=true engine={chosen}", f"accelerate launch --config_file {chosen} {page}"
    ]  # fmt: skip
