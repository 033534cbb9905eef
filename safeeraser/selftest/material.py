"""The material of the checks: a model of random weights, and records of the mini benchmark, one with long texts."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from safeeraser.benchmark.conversation import SYSTEM_TEXTS
from safeeraser.benchmark.family import families
from safeeraser.benchmark.files import read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.mini import dataset
from safeeraser.mini import settings as mini
from safeeraser.model.load import choose_dtype, load_config, load_preprocessor
from safeeraser.selftest import FAMILIES, SIZES
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.job import prepare
from safeeraser.unlearn.load import dataset_of
from safeeraser.unlearn.preflight.dry_run import outline, planned_steps
from safeeraser.unlearn.preflight.machine import GIB, on_device
from safeeraser.unlearn.preflight.memory import Part, Setup, memory

MODELS = SIZES | FAMILIES
LONG = 40  # times that each benign answer of the last record is repeated
ENDS = 16  # every 16th word ends a response; else all random responses would run to the limit


@dataclass(frozen=True)
class Bench:
    """The folder of the material, and its model's size: a size of LLaVA-1.5, or a name in `FAMILIES`."""

    folder: Path
    size: str

    @property
    def model(self) -> str:
        """The model's folder."""
        return str(self.folder / "model")

    @property
    def data(self) -> Path:
        """The data file; its pictures are in the same folder."""
        return self.folder / "data" / "all_train.json"

    def keys(self, save_dir: str, **more: Any) -> dict[str, Any]:
        """The keys that all runs on it share: PO+PD, no dropout. Texts are shorter for LLaVA-1.5."""
        family, long = ("llava-1.5", 128) if self.size in SIZES else (self.size, 512)
        keys = {"model_family": family, "model_path": self.model, "data_path": str(self.data), "max_length": long}
        keys |= {"save_dir": str(self.folder / save_dir), "forget_loss": "popd", "workers": 0, "LoRA.dropout": 0}
        return keys | more

    def settings(self, save_dir: str, **more: Any) -> Settings:
        """The settings of a run in this process, with `keys`."""
        return read_settings(from_keys(self.keys(save_dir, **more)))


def write(wanted: str | None, folder: Path) -> Bench:
    """Write model and data, unless they are there. The size is `wanted`, else the largest that fits; tiny on a CPU.

    Raises:
        BadInput: the size does not fit into memory or on the disk.
    """
    done, lack = folder / "size", ""
    if done.exists():
        return Bench(folder, done.read_text())
    for size in [wanted] if wanted else SIZES if torch.cuda.is_available() else ["tiny"]:
        bench = Bench(folder, size)
        write_data(bench.data)
        write_outline(bench)
        if not (lack := lacks(bench.settings("no"), MODELS[size].get("disk", 0) * GIB)):
            build_model(size).save_pretrained(bench.model)
            done.write_text(size)
            return bench
    raise BadInput(f"--size {size}: {lack}")


def lacks(settings: Settings, disk: float = 0) -> str:
    """Why a run, and files of `disk` bytes, do not fit on this machine (its fullest GPU); empty if they do."""
    takes, there = on_device(estimate(settings)), shutil.disk_usage(settings.save_dir.parent).free
    cards = range(torch.cuda.device_count())
    room = min((torch.cuda.mem_get_info(card)[0] for card in cards), default=psutil.virtual_memory().available)
    if takes > room:
        return f"a step takes {takes / GIB:.1f} GiB of memory, and {room / GIB:.1f} are free; a smaller --size fits"
    if disk > there:
        return f"takes {disk / GIB:g} GiB of disk, and {there / GIB:.1f} are free; TMPDIR names another folder for it"
    return ""


def estimate(settings: Settings) -> list[Part]:
    """The memory of a run in one process, as the dry run estimates it."""
    job, dtype = prepare(settings), choose_dtype(settings.dtype)
    items = dataset_of(settings, job.data, job.plan, load_preprocessor(settings.model_path))
    model = outline(settings, load_config(settings.model_path), dtype)
    return memory(model, Setup(settings, Engine(), dtype), *planned_steps(settings, items))


def architecture(size: str) -> Any:
    """The configuration of a size, or of another family's small model. Initial weights are scaled so that a layer keeps
    the scale of its input. So attention is equally uneven, and the next token equally uncertain, in all sizes."""
    spec = MODELS[size]
    ids = {key: spec["tokens"].index(token) for key, token in spec["ids"].items()}
    text = spec["config"]["text_config"]
    text = text | {"initializer_range": text["hidden_size"] ** -0.5}
    kind = families()["llava-1.5" if size in SIZES else size].model_type
    return transformers.AutoConfig.for_model(kind, **spec["config"] | ids | {"text_config": text})


@torch.no_grad()
def build_model(size: str) -> Any:
    """The model with random weights, drawn on the device and in the dtype that it is to run in. It hardly ever says a
    special token: a text does not show them, so they could not distinguish responses."""
    special = len(MODELS[size]["tokens"])
    with torch.random.fork_rng(), torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.manual_seed(0)
        kind = transformers.AutoModelForImageTextToText
        model = kind.from_config(architecture(size), dtype=choose_dtype("auto"))
    head = model.get_output_embeddings().weight
    head[:special] = 0
    ends = [1, *(number for number in range(special, len(head)) if number % ENDS == 0)]
    model.generation_config = transformers.GenerationConfig(eos_token_id=ends, pad_token_id=0)
    return model


def write_outline(bench: Bench) -> None:
    """Write the model's folder as the hub has it, without the weights. The picture processor is only named there, so it
    need not be loaded."""
    config, spec = architecture(bench.size), MODELS[bench.size]
    config.save_pretrained(bench.model)
    texts = [file.read_text() for file in sorted(bench.data.parent.glob("*.json"))]
    texts += [*SYSTEM_TEXTS.values(), "USER ASSISTANT"]
    tokenizer = build_tokenizer(spec, config.get_text_config().vocab_size, " ".join(texts))
    tokenizer.chat_template = spec.get("template", "").replace("{{ picture }}", spec.get("picture", "")) or None
    tokenizer.save_pretrained(bench.model)
    write_json(Path(bench.model, "preprocessor_config.json"), spec["pictures"])
    write_json(Path(bench.model, "processor_config.json"), spec["processor"])


def build_tokenizer(spec: dict[str, Any], count: int, text: str) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with one token per word: special ones first, the words of `text`, and made-up words up to `count`.
    Words are decoded with spaces between them, so a response's tokens can be read from its text."""
    split, (pad, end, *_) = pre_tokenizers.Whitespace(), spec["tokens"]
    known = list(dict.fromkeys([*spec["tokens"], *(word for word, _ in split.pre_tokenize_str(text))]))
    known += [f"w{number}" for number in range(len(known), count)]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(known)}, unk_token=pad))
    tokenizer.pre_tokenizer = split
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in spec["tokens"]])
    roles = {"pad_token": pad, "eos_token": end, "unk_token": pad, "extra_special_tokens": spec["names"]}
    how = {"tokenizer_object": tokenizer, "padding_side": "left", "clean_up_tokenization_spaces": False}
    return transformers.PreTrainedTokenizerFast(**how, **roles)


def write_data(file: Path) -> None:
    """Write two records of each category. The last record has long texts, and upright pictures, which some families
    divide into tiles differently."""
    settings = mini.read_settings("tiny").model_copy(update={"train_per_concept": 1})
    dataset.write_refusals(file.parent, settings)
    dataset.write_split(file.parent, "train", settings, lambda: None)
    *_, last = records = read_json(file)
    for pair in last["unsafe_pairs"]:
        pair["sd_response"] *= LONG
    for picture in (file.parent / last["image_path"], file.parent / last["SDImage_path"]):
        Image.open(picture).resize((48, 96)).save(picture)
    write_json(file, records)
