"""How near does the dry run's estimate of memory come? A random LLaVA of 118M parameters, trained for two steps.

    python benchmarks/memory_estimate.py

One process, float32, on the CPU, without dropout (a GPU's takes less than a CPU's). *Counted* is the peak of tensors
alive in training, *resident* that of the process's memory beyond what it held before, with an allocator that gives
freed memory back at once; to both the weights are added. Each case runs in a process of its own.
"""

import ctypes
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, CLIPImageProcessorPil, LlavaForConditionalGeneration

from safeeraser import model as llava
from safeeraser.unlearn import run
from safeeraser.unlearn.batch import PlanDataset
from safeeraser.unlearn.dry_run import conversation_sizes, largest_step, outline
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.memory import Live, Setup, memory
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.settings import Settings, read_settings
from safeeraser.unlearn.stop import Guard
from safeeraser.unlearn.trainer import UnlearnTrainer

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "data" / "conformance"
CASES = [(method, checkpointing) for method in ("gd", "klpd") for checkpointing in (False, True)]
LAYERS = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab_size": 32064}
VISION_LAYERS = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6, "image_size": 224}


def build(folder: Path) -> None:
    """Write the model: the recorded one's tokenizer, with layers and a vocabulary of real proportions."""
    shutil.copytree(RECORDED / "llava-tiny", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(folder)
    config.text_config.update(LAYERS | {"num_attention_heads": 12, "num_key_value_heads": 12, "head_dim": 64})
    config.vision_config.update(VISION_LAYERS | {"num_attention_heads": 6, "patch_size": 14})
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}).save_pretrained(folder)


def settings(folder: str, method: str, checkpointing: bool) -> Settings:
    """The settings of one case."""
    given = {"model_path": folder, "data_path": RECORDED / "dataset" / "all_train.json", "save_dir": f"{folder}/run"}
    given |= {"forget_loss": method, "gradient_checkpointing": checkpointing, "dtype": "float32", "LoRA.dropout": 0}
    given |= {"gradient_accumulation_steps": 2, "max_train_steps": 2, "workers": 0}
    with initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        return read_settings(compose("forget_lora", [f"{key}={value}" for key, value in given.items()]))


def case(folder: str, method: str, checkpointing: bool) -> dict[str, float]:
    """Bytes estimated, counted and resident."""
    read, engine = settings(folder, method, checkpointing), Engine()
    os.chdir(RECORDED)  # where the recorded pictures' paths start
    dataset = run.load_dataset(read, prepare(read))
    arguments = run.training_arguments(read, engine, Schedule(2, 0))
    model = run.load_model(read, engine, arguments, dataset)

    def train() -> None:
        UnlearnTrainer(
            method=read.method,
            stop=read.stop,
            model=model,
            args=arguments,
            train_dataset=dataset,
            data_collator=run.collator(read, dataset),
        ).train()
        model.zero_grad()
        gc.collect()

    weights = sum(parameter.nbytes for parameter in model.parameters())
    with Live(model) as live:
        train()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = status("VmHWM")
    train()
    return {
        "estimated": estimate(read, dataset, engine),
        "counted": weights + live.peak,
        "resident": weights + status("VmHWM") - before,
    }


def estimate(read: Settings, dataset: PlanDataset, engine: Engine) -> float:
    """What the dry run would say, in bytes."""
    setup = Setup(
        engine,
        read.model_family.parts,
        torch.float32,
        gradient_checkpointing=read.gradient_checkpointing,
        keeps_copies=Guard(read.stop, read.method).active,
    )
    model = outline(read, llava.load_config(read.model_path), torch.float32)
    parts = memory(model, setup, read.method, largest_step(read, conversation_sizes(dataset)))
    return sum(part.device + part.cpu for part in parts)


def status(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def main() -> None:
    """Run every case and print the table."""
    table = Table("MiB", "checkpointing", "estimated", "counted", "", "resident", "")
    # So that what is freed does not stay with the process.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        build(folder)
        for method, checkpointing in CASES:
            command = [sys.executable, __file__, str(folder), method, str(checkpointing)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            cells = [f"{found['estimated'] / 2**20:.0f}"]
            for key in ("counted", "resident"):
                cells += [f"{found[key] / 2**20:.0f}", f"{found['estimated'] / found[key] - 1:+.1%}"]
            table.add_row(method, "yes" if checkpointing else "no", *cells)
    Console().print(table)


if __name__ == "__main__":
    if sys.argv[1:]:
        print(json.dumps(case(sys.argv[1], sys.argv[2], sys.argv[3] == "True")))
    else:
        main()
