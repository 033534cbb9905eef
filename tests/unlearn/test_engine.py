"""Engines: read alike from accelerate's file and its launcher's environment, and checked before anything starts."""

import json
import os
import shutil
from unittest.mock import patch

import pytest
import yaml
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env
from helpers import MODEL, ROOT, TRAIN, refused, run, settings

from safeeraser.benchmark.files import held
from safeeraser.unlearn.engine import Engine, engine_of

pytestmark = pytest.mark.slow

FILES = [ROOT / "config" / "accelerate_config.yaml", *sorted((ROOT / "config" / "accelerate").glob("*.yaml"))]
GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "max_train_steps=2")


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
        environment["WORLD_SIZE"] = str(arguments.num_processes)  # by torchrun
    with patch.dict(os.environ, environment, clear=True):
        return engine_of(settings())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_and_environment_tell_the_same(path):
    assert from_file(path) == from_environment(path)


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("accelerate_config", Engine("zero2", 2, mixed_precision="bf16", offload_optimizer=True)),
        ("one_gpu", Engine("single", 1)),
        ("ddp", Engine("ddp", 2, mixed_precision="bf16")),
        ("zero3", Engine("zero3", 2, mixed_precision="bf16")),
        ("fsdp2", Engine("fsdp", 2, mixed_precision="bf16")),
        ("cpu_ddp", Engine("ddp", 2)),
        ("cpu_zero2", Engine("zero2", 2)),
        ("cpu_zero3", Engine("zero3", 2)),
    ],
)
def test_the_files_shipped(name, engine):
    assert from_file(next(path for path in FILES if path.stem == name)) == engine


def test_a_file_of_deepspeeds_own(tmp_path):
    inner = {"zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}}, "gradient_accumulation_steps": 4}
    (tmp_path / "ds.json").write_text(json.dumps(inner))
    outer = {"distributed_type": "DEEPSPEED", "num_processes": 4, "mixed_precision": "no"}
    outer["deepspeed_config"] = {"deepspeed_config_file": str(tmp_path / "ds.json")}
    (tmp_path / "engine.yaml").write_text(yaml.safe_dump(outer))
    expected = Engine("zero3", 4, accumulation=4, offload_weights=True)
    assert from_file(tmp_path / "engine.yaml") == expected


def engine_file(folder, **changes):
    """The documented default with some of its keys changed."""
    value = yaml.safe_load(FILES[0].read_text())
    for key, change in changes.items():
        value[key] = value[key] | change if isinstance(change, dict) else change
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "engine.yaml"
    path.write_text(yaml.safe_dump(value))
    return path


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({"num_proceses": 2}, [], "unknown keys (['num_proceses'])"),
        ({"num_processes": "many"}, [], "not a file that accelerate launch could use"),
        (
            {"deepspeed_config": {"gradient_accumulation_steps": 8}, "mixed_precision": "no"},
            ["gradient_accumulation_steps=4"],
            "says gradient_accumulation_steps 8, the settings 4",
        ),
        ({}, [], "says mixed_precision bf16, the settings dtype=float32"),
        (
            {"num_processes": 64, "mixed_precision": "no"},
            ["gradient_accumulation_steps=1", "max_train_steps=null", "num_epochs=1", "batch_size=2"],
            "64 processes for 48 items, which make 24 whole micro-steps of batch_size=2",
        ),
        (
            {"deepspeed_config": {"zero_stage": 3}, "mixed_precision": "no"},
            ["quantization=nf4"],
            "quantization=nf4: zero3 cannot shard 4-bit weights",
        ),
    ],
)
def test_an_engine_that_contradicts_the_settings(tmp_path, changes, more, says):
    path = engine_file(tmp_path / "engines", **changes)
    refused(
        tmp_path, "forget", *GIVEN, f"save_dir={tmp_path / 'run'}", "dry_run=true", f"engine={path}", *more, says=says
    )


@pytest.mark.parametrize("text", [None, "a: [1", "- a list", ""])
def test_a_file_that_is_none_of_accelerates(tmp_path, text):
    path = tmp_path / "engine.yaml"
    if text is not None:
        path.write_text(text)
    given = (*GIVEN, f"save_dir={tmp_path / 'run'}", "dry_run=true", f"engine={path}")
    refused(tmp_path, "forget", *given, says=f"engine={path}: not a file that accelerate launch could use")


def test_an_engine_named_but_not_launched(tmp_path):
    given = (*GIVEN, f"save_dir={tmp_path / 'run'}", f"engine={FILES[0]}")
    refused(tmp_path, "forget", *given, says="ACCELERATE_CONFIG=")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """A finished run with a checkpoint."""
    folder = tmp_path_factory.mktemp("runs") / "earlier"
    done = run("forget", *GIVEN, f"save_dir={folder}", "save_steps=1")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["forget_loss=ga"], "has another forget_loss.name (popd, now ga)"),
        (["lr=0.5"], "has another lr (0.0001, now 0.5)"),
        (["LoRA.r=8"], "has another LoRA.r (32, now 8)"),
        (["stop.retain_loss=12"], "has another stop.retain_loss (None, now 12.0)"),
        ([f"model_path={ROOT / 'tests' / 'data' / 'families' / 'qwen3_vl' / 'model'}"], "has another model_path"),
        (
            ["dry_run=true", f"engine={FILES[0].parent / 'accelerate' / 'cpu_zero2.yaml'}"],
            "another engine (single with 1",
        ),
    ],
)
def test_a_checkpoint_of_another_run(earlier, tmp_path, more, says):
    """Both where it is named and where the run to go on with is found in `save_dir`."""
    named = f"resume_from_checkpoint={earlier / 'checkpoint-1'}"
    refused(tmp_path, "forget", *GIVEN, f"save_dir={tmp_path / 'new'}", named, *more, says=says)
    shutil.copytree(earlier, tmp_path / "there")
    found = (f"save_dir={tmp_path / 'there'}", "resume_from_checkpoint=auto")
    refused(tmp_path, "forget", *GIVEN, *found, *more, says=says)


def test_a_checkpoint_that_does_not_tell_whose_it_is(earlier, tmp_path):
    shutil.copytree(earlier / "checkpoint-1", tmp_path / "checkpoint-1", ignore=shutil.ignore_patterns("run.json"))
    named = f"resume_from_checkpoint={tmp_path / 'checkpoint-1'}"
    refused(tmp_path, "forget", *GIVEN, f"save_dir={tmp_path / 'new'}", named, says="no run.json in or beside it")


def test_a_finished_run_is_passed_over(earlier, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in earlier.rglob("*")}
    # Probing decides nothing, so it may differ.
    done = run("forget", *GIVEN, f"save_dir={earlier}", "resume_from_checkpoint=auto", "probe.prompts=2")
    assert done.returncode == 0 and done.stderr.startswith("done before, on 20")
    assert {path: path.stat().st_mtime_ns for path in earlier.rglob("*")} == before


@pytest.mark.parametrize("more", [["resume_from_checkpoint=auto"], ["overwrite_dir=true"], []])
def test_a_folder_in_which_a_run_is_at_work(earlier, tmp_path, more):
    """Such as the processes that a killed launcher leaves behind."""
    shutil.copytree(earlier, tmp_path / "run")
    with held(tmp_path / "run", "run"):
        refused(tmp_path, "forget", *GIVEN, f"save_dir={tmp_path / 'run'}", *more, says="another run is at work there")
