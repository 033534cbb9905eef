"""Shared by the tests of training and inference: the recorded data, the tiny model, and ways to run the commands."""

import importlib.util
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from safetensors.numpy import load_file, save_file
from transformers import PreTrainedTokenizerFast

from safeeraser.errors import BadInput

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "data" / "conformance"
MODEL = RECORDED / "llava-tiny"
TRAIN = RECORDED / "dataset" / "all_train.json"
VAL = RECORDED / "dataset" / "all_val.json"
CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"  # the release's form: LoRA of rank 32 and the projector
METHODS = ("ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd")
FURTHER = ("npo", "dpo", "simnpo", "undial", "wga", "satimp", "ceu", "rmu")  # methods of other papers


def pair(number: int, **more: str) -> dict:
    """A harmful question with its two answers."""
    return {
        "question": f"Secret {number}?",
        "model_response": f"Harm {number}.",
        "sd_response": f"Fine {number}.",
        **more,
    }


def record(number: int = 0, category: str = "Weapon", **more: object) -> dict:
    """One record of the benchmark as it is on disk, with picture paths relative to the data file's folder."""
    unharm = {
        f"UnharmPair_{name}": {"Question": f"What {name}?", "Answer": name, "Prediction": f"It is {name} {number}."}
        for name in ("text1", "text2", "image1", "image2")
    }
    paths = {"image_path": f"img/{category}/{number}.jpg", "SDImage_path": f"pdset/{category}/{number}.jpg"}
    return {
        "keyword": "k",
        "category": category,
        **paths,
        **unharm,
        "unsafe_pairs": [pair(i) for i in range(4)],
        **more,
    }


def write_json(path: Path, value: object) -> Path:
    """Write `value` to a JSON file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_dataset(folder: Path, *records: dict) -> Path:
    """Write a data file with its refusals and pictures, each in its own colour; return the data file's path."""
    write_json(folder / "prompt.json", {"idk": ["No. I WILL not.", "Never."]})
    for number, path in enumerate(value[key] for value in records for key in ("image_path", "SDImage_path")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 9 % 256, 80, 200)).save(folder / path)
    return write_json(folder / "all_train.json", list(records))


def read_beside(file: str, name: str) -> Any:
    """The value of the YAML file `name` in the folder of a test's `file`."""
    return yaml.safe_load(Path(file).parent.joinpath(name).read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[dict]:
    """The values of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def config(*overrides: str, page: str = "forget_lora"):
    """The config that `forget.py` composes from the words of a command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        return compose(page, overrides=list(overrides))


def plan_dataset(read):
    """The dataset that the settings `read` train on, in one process."""
    from safeeraser.unlearn.config.engine import Engine
    from safeeraser.unlearn.config.trainer_arguments import Schedule
    from safeeraser.unlearn.data.items import load_data
    from safeeraser.unlearn.job import Job, make_or_read_plan
    from safeeraser.unlearn.load import load_dataset

    data = load_data(read)
    plan = make_or_read_plan(read, data.sizes, 1)
    return load_dataset(read, Job(Engine(), None, data, {}, plan, Schedule(len(plan), 0)))


def run(script: str, *arguments: object, cwd: Path = RECORDED) -> subprocess.CompletedProcess:
    """Run a command's main function in this process, which is quicker than loading torch again for each command.

    `script`: an entry point without `.py`, or the name of a module for `python -m`.
    """
    if script.startswith("safeeraser."):
        spec = importlib.util.find_spec(script)
        if spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{script}.__main__")
    else:
        spec = importlib.util.spec_from_file_location(script, ROOT / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    out, err, code, home = io.StringIO(), io.StringIO(), None, Path.cwd()
    argv = [f"{script}.py", *map(str, arguments)]
    GlobalHydra.instance().clear()
    os.chdir(cwd)
    try:
        with patch.object(sys, "argv", argv), patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):
            spec.loader.exec_module(module)
            module.main()
    except SystemExit as stop:
        code = stop.code
    finally:
        os.chdir(home)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def ran(script: str, *arguments: object, cwd: Path = RECORDED) -> subprocess.CompletedProcess:
    """Run a command that must succeed, as `run` does."""
    done = run(script, *arguments, cwd=cwd)
    assert not done.returncode, done.stderr
    return done


def trained(folder: Path, *words: object) -> Path:
    """Train into `folder` by `forget.py`, which must succeed, and return the folder."""
    ran("forget", *words, f"save_dir={folder}")
    return folder


def fork(script: str, *arguments: object, log: Path | None = None) -> BaseProcess:
    """Start a command in a fork of this process, because loading torch again takes longer than most commands.

    `log`: the file for its standard error, written when it ends.
    """

    def command() -> None:
        logging.getLogger().handlers.clear()  # pytest's handlers; with them, a command's own setup would have no effect
        done = run(script, *arguments)
        (log or Path("/dev/stderr")).write_text(done.stderr)
        sys.exit(done.returncode)

    process = get_context("fork").Process(target=command)
    process.start()
    return process


def kill(pid: int) -> None:
    """Send SIGKILL to a process and its descendants one by one: a launcher's processes have their own sessions."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in [*process.children(recursive=True), process]:
            with suppress(psutil.NoSuchProcess):
                each.kill()


def until(there: Callable[[], object], alive: Callable[[], object] = lambda: True, seconds: float = 300) -> None:
    """Wait until `there()` is true; fail after so many `seconds`, or as soon as `alive()` is false."""
    deadline = time.monotonic() + seconds
    while not there():
        assert alive() and time.monotonic() < deadline
        time.sleep(0.005)


def kill_once(begun: Callable[[], object], process: BaseProcess, number: int = signal.SIGKILL) -> None:
    """Kill a working process and its descendants once `begun()` is true. Any other signal goes to its process group."""
    until(begun, process.is_alive)
    kill(process.pid) if number == signal.SIGKILL else os.killpg(process.pid, number)
    process.join()
    assert process.exitcode in (-signal.SIGKILL, 128 + number), "it had ended before"


def lines(file: Path) -> int:
    """The number of complete lines in a file; 0 if there is no file."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


def refused(tmp_path: Path, script: str, *arguments: object, says: str, cwd: Path = RECORDED, before: str = "") -> str:
    """Run a command that must be refused: exit code 2, one line, and nothing under `tmp_path` touched.

    `before`: given if other lines may precede the error, because the mistake is found after loading has begun.
    """
    there = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    done = run(script, *arguments, cwd=cwd)
    assert done.returncode == 2, done.stderr
    *earlier, line = done.stderr.strip().splitlines()
    assert line.startswith("error: ") and says in line, done.stderr
    assert not earlier or (before and not any("error" in text or "Traceback" in text for text in earlier)), done.stderr
    assert done.stdout == ""
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == there
    return line


def refusal(call: Callable, *given: object) -> str:
    """The message of a call that must raise `BadInput`."""
    with pytest.raises(BadInput) as error:
        call(*given)
    return str(error.value)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """LLaVA-1.5's tokenizer: the Llama-2 vocabulary (the wheel `wordllama` carries it) with `<image>` and `<pad>`."""
    wheel = Path(importlib.util.find_spec("wordllama").origin).parent
    file = wheel / "tokenizers" / "l2_supercat_tokenizer_config.json"
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(file), bos_token="<s>", eos_token="</s>", unk_token="<unk>", padding_side="right"
    )
    tokenizer.add_tokens(["<image>", "<pad>"], special_tokens=True)  # 32000 and 32001, as LLaVA-1.5 numbers them
    return tokenizer


def other_base(folder: Path) -> Path:
    """The folder of a copy of `MODEL` in which one matrix has slightly different weights."""
    shutil.copytree(MODEL, folder)
    weights = load_file(folder / "model.safetensors")
    weights["language_model.model.layers.1.mlp.up_proj.weight"] += 0.01
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder
