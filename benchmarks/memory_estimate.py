"""How near does the dry run's estimate of memory come? A random LLaVA of 118M parameters, trained for two steps.

    python benchmarks/memory_estimate.py

One process, float32, on the CPU, without dropout (a GPU's takes less than a CPU's). *Counted* is the most that torch's
allocator had given out at any time of the training, and the weights.
"""

import gc
import os
import shutil
import tempfile
from itertools import accumulate, product
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, CLIPImageProcessorPil, LlavaForConditionalGeneration

from safeeraser import model as llava
from safeeraser.unlearn import run
from safeeraser.unlearn.dry_run import conversation_sizes, largest_step, outline
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.memory import Part, Setup, memory
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.settings import Settings, read_settings
from safeeraser.unlearn.trainer import UnlearnTrainer

ROOT = Path(__file__).resolve().parents[1]
RECORDED = ROOT / "tests" / "data" / "conformance"
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


def measure(read: Settings) -> tuple[list[Part], int, int]:
    """The estimate's parts; bytes of the weights, and of the most that was given out beside them in two steps."""
    engine = Engine()
    dataset = run.load_dataset(read, prepare(read))
    step = largest_step(read, conversation_sizes(dataset))
    imagined = outline(read, llava.load_config(read.model_path), torch.float32)
    parts = memory(imagined, Setup(read, engine, torch.float32), step)

    arguments = run.training_arguments(read, engine, Schedule(2, 0))
    model = run.load_model(read, engine, arguments, dataset)
    reference = run.load_reference(read, engine, arguments, model)
    trainer = UnlearnTrainer(
        method=read.method,
        stop=read.stop,
        reference=reference,
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=run.collator(read, dataset),
    )
    weights = sum(parameter.nbytes for held in (model, reference) if held for parameter in held.parameters())
    gc.collect()  # what an earlier case left would be freed meanwhile, and subtracted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.train()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return parts, weights, max(accumulate(changes))


def main() -> None:
    """Run every case and print the table."""
    table = Table("MiB", "checkpointing", "estimated", "counted", "")
    os.chdir(RECORDED)  # where the recorded pictures' paths start
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        build(Path(folder) / "model")
        for method, checkpointing in product(("gd", "klpd"), (False, True)):
            given = {"model_path": f"{folder}/model", "save_dir": f"{folder}/{method}-{checkpointing}", "workers": 0}
            given |= {"data_path": RECORDED / "dataset" / "all_train.json", "dtype": "float32", "LoRA.dropout": 0}
            given |= {"forget_loss": method, "gradient_checkpointing": checkpointing}
            given |= {"gradient_accumulation_steps": 2, "max_train_steps": 2}
            read = read_settings(compose("forget_lora", [f"{key}={value}" for key, value in given.items()]))
            parts, weights, peak = measure(read)
            estimated, counted = sum(part.device + part.cpu for part in parts), weights + peak
            sizes = (f"{size / 2**20:.0f}" for size in (estimated, counted))
            table.add_row(method, "yes" if checkpointing else "no", *sizes, f"{estimated / counted - 1:+.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
