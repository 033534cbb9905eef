"""What the checks work on: a LLaVA of random weights in LLaVA-1.5's form, drawn pictures, and harmless records."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizing
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaConfig,
    PreTrainedTokenizerFast,
)

from safeeraser import model as models
from safeeraser.benchmark.conversation import IMAGE, prompt
from safeeraser.benchmark.files import write_json
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.settings import Settings

RECORDS = 6
COLOURS = ("red", "green", "blue", "yellow", "white", "orange")
SHAPES = {"circle": "ellipse", "box": "rectangle", "line": "line"}
REFUSALS = ("I would rather not say what is in this picture .", "No , not today .")
ENDS = 16  # every so many words, one ends a response: else all random responses would run to the limit
# A picture of tiny's takes 16 tokens. 1b has the vision tower of 7b, and a language model of half its width and depth.
TINY: dict[str, Any] = {
    "text_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4},
    "image_token_id": 500,
}
TINY["text_config"] |= {"vocab_size": 502, "max_position_embeddings": 1024}
TINY["vision_config"] |= {"image_size": 64, "patch_size": 16}
SMALLER: dict[str, Any] = {
    "tiny": TINY,
    "1b": {"text_config": {"hidden_size": 2048, "intermediate_size": 5504}},
    "7b": {},
}
SMALLER["1b"]["text_config"] |= {"num_hidden_layers": 16, "num_attention_heads": 16}


@dataclass(frozen=True)
class Bench:
    """Where the material lies, and the settings that all training on it shares."""

    folder: Path
    size: str

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.folder / "model"

    @property
    def data(self) -> Path:
        """The data file, with its pictures beside it."""
        return self.folder / "data" / "all_train.json"

    def keys(self, save_dir: Path, **more: Any) -> dict[str, Any]:
        """The keys of config/forget_lora.yaml for a run into `save_dir`: PO+PD, no dropout, short texts."""
        # The family by its name: what is needed is told before there is a model that could tell it.
        keys: dict[str, Any] = {"model_family": "llava-1.5", "model_path": str(self.model), "data_path": str(self.data)}
        keys |= {"save_dir": str(save_dir), "workers": 0}
        keys |= {"forget_loss": "popd", "max_length": 128, "LoRA.dropout": 0, "gradient_accumulation_steps": 4}
        return keys | more

    def settings(self, save_dir: Path, **more: Any) -> Settings:
        """The settings of such a run in this process."""
        return read_settings(from_keys(self.keys(save_dir, **more)))

    def words(self, save_dir: Path, **more: Any) -> list[str]:
        """The same for the command line of forget.py."""
        return [f"{key}={_word(value)}" for key, value in self.keys(save_dir, **more).items()]


def _word(value: Any) -> str:
    # Hydra's grammar: a text in quotes may hold any sign but a quote, which no path of ours does.
    return f"'{value}'" if isinstance(value, str) and not value.isalnum() else str(value).lower()


def architecture(size: str) -> LlavaConfig:
    """The numbers of a size; 7b's stand in config/model_family/.

    Weights are drawn as wide as keeps what passes through a layer of that width at the same size, so that attention is
    as uneven, and the next token as undecided, in all sizes.
    """
    numbers = dict(read_settings(from_keys({"model_family": "llava-1.5-7b"})).model_family.architecture or {})
    for part, its in SMALLER[size].items():
        numbers[part] = numbers[part] | its if isinstance(its, dict) else its
    text = numbers["text_config"] | {"initializer_range": numbers["text_config"]["hidden_size"] ** -0.5}
    text |= {"pad_token_id": numbers["image_token_id"] + 1, "bos_token_id": 1, "eos_token_id": 2}
    vision = numbers["vision_config"]
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return LlavaConfig(**numbers | {"text_config": text, "image_seq_length": patches})


def write(bench: Bench) -> None:
    """Write model and data, unless they are there."""
    done = bench.folder / "material.json"
    if done.exists():
        return
    write_data(bench.data)
    config = architecture(bench.size)
    tokenizer = build_tokenizer(config.image_token_id, json.loads(bench.data.read_text()))
    side = config.vision_config.image_size
    pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    models.write_released_form(bench.model, build_model(config), tokenizer, pictures)
    write_json(done, {"size": bench.size})


@torch.no_grad()
def build_model(config: LlavaConfig) -> torch.nn.Module:
    """The model with its weights drawn where it is to run, in the dtype that it is to run in."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=models.choose_dtype("auto"))
    # Behind the words stand tokens that a text does not show, so that responses could not be told apart by them.
    model.lm_head.weight[config.image_token_id :] = 0
    model.lm_head.weight[:2] = 0
    ends = [2, *range(ENDS, config.image_token_id, ENDS)]
    pad = config.image_token_id + 1
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=ends, pad_token_id=pad)
    return model


def build_tokenizer(image_token: int, records: list[dict]) -> PreTrainedTokenizerFast:
    """A word a token: those of the records' texts, and made-up ones up to the number that LLaVA-1.5's picture has.

    Each shows as itself between blanks, so a response's tokens can be read from its text.
    """
    split = pre_tokenizers.Whitespace()
    texts = [prompt("", who) for who in ("human", "user")] + list(REFUSALS) + list(_texts(records))
    known = ["<unk>", "<s>", "</s>"]
    known += dict.fromkeys(word for text in texts for word, _ in split.pre_tokenize_str(text.replace(IMAGE, "")))
    known += [f"w{number}" for number in range(len(known), image_token)]
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(tokenizing.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    special = [*known[:3], IMAGE, "<pad>"]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def write_data(file: Path) -> None:
    """Write records in the benchmark's form that ask about drawn shapes, and the refusals."""
    draw = random.Random(0)
    records = [_record(file.parent, number, draw) for number in range(RECORDS)]
    write_json(file, records)
    write_json(file.with_name("prompt.json"), {"idk": list(REFUSALS)})


def _record(folder: Path, number: int, draw: random.Random) -> dict[str, Any]:
    names = [f"pictures/{number}-{which}.png" for which in ("first", "second")]
    shown = [_picture(folder / name, draw) for name in names]

    def said(picture: int, long: bool) -> str:
        colour, shape = shown[picture]
        return f"There is a {colour} {shape} on a grey ground ." + f" I like it , it is {colour} and large ." * long

    # Of many lengths: rows of a batch then differ, and have gaps.
    asks = [f"What is {'really ' * times}shown here ?" for times in range(4)]
    pairs = [
        {"question": ask, "model_response": said(0, times % 2 > 0), "sd_response": said(1, times % 3 > 0)}
        for times, ask in enumerate(asks)
    ]
    kept = {
        f"UnharmPair_{name}": {"Question": f"{ask} Say it {name} .", "Answer": shown[0][0], "Prediction": said(0, True)}
        for name, ask in zip(("text1", "text2", "image1", "image2"), asks, strict=True)
    }
    paths = dict(zip(("image_path", "SDImage_path"), names, strict=True))
    return {"keyword": "shape", "category": "Shapes", **paths, **kept, "unsafe_pairs": pairs}


def _picture(path: Path, draw: random.Random) -> tuple[str, str]:
    """Draw a shape; returns its colour and what it is."""
    colour, shape = draw.choice(COLOURS), draw.choice(list(SHAPES))
    picture = Image.new("RGB", (96, 72), (draw.randrange(90, 160),) * 3)
    corner = (draw.randrange(5, 30), draw.randrange(5, 25))
    box = (*corner, corner[0] + draw.randrange(20, 60), corner[1] + draw.randrange(20, 40))
    pen = ImageDraw.Draw(picture)
    getattr(pen, SHAPES[shape])(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return colour, shape
