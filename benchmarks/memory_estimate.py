"""How near does the dry run's estimate of memory come? A random LLaVA of 118M parameters, trained for two steps.

    python benchmarks/memory_estimate.py

One process, float32, on the CPU, without dropout (a GPU's takes less than a CPU's). *Counted* is the most that torch's
allocator had given out at any time of the training, and the weights.
"""

import os
import shutil
import tempfile
from itertools import product
from pathlib import Path

from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, CLIPImageProcessorPil, LlavaForConditionalGeneration

from safeeraser.selftest.memory import measure
from safeeraser.unlearn.config.read import read_settings

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


def main() -> None:
    """Run every case and print the table."""
    table = Table("MiB", "checkpointing", "estimated", "counted", "")
    os.chdir(RECORDED)  # where the recorded pictures' paths start
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(ROOT / "config"), version_base="1.3"):
        build(Path(folder) / "model")
        for method, checkpointing in product(("gd", "klpd", "npo", "dpo", "rmu"), (False, True)):
            given = {"model_path": f"{folder}/model", "save_dir": f"{folder}/{method}-{checkpointing}", "workers": 0}
            given |= {"data_path": RECORDED / "dataset" / "all_train.json", "dtype": "float32", "LoRA.dropout": 0}
            given |= {"forget_loss": method, "gradient_checkpointing": checkpointing}
            given |= {"gradient_accumulation_steps": 2, "max_train_steps": 2}
            read = read_settings(compose("forget_lora", [f"{key}={value}" for key, value in given.items()]))
            parts, weights, peak = measure(read)
            estimated, counted = sum(part.device for part in parts), weights + peak
            sizes = (f"{size / 2**20:.0f}" for size in (estimated, counted))
            table.add_row(method, "yes" if checkpointing else "no", *sizes, f"{estimated / counted - 1:+.1%}")
    Console().print(table)


if __name__ == "__main__":
    main()
