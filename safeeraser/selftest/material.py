"""What the checks work on: a model of random weights, LLaVA-1.5's or a small one of another family, drawn pictures, and
harmless records, one of them with long texts."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors
from tokenizers import models as tokenizing
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    GenerationConfig,
    LlavaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from safeeraser.benchmark.conversation import IMAGE, prompt
from safeeraser.benchmark.family import families
from safeeraser.benchmark.files import write_json
from safeeraser.model.llava import write_released_form
from safeeraser.model.load import choose_dtype
from safeeraser.selftest.families import FAMILIES, SIZES
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings

RECORDS = 6
LONG = 40  # times that a text of the last record is repeated
COLOURS = ("red", "green", "blue", "yellow", "white", "orange")
SHAPES = {"circle": "ellipse", "box": "rectangle", "line": "line"}
REFUSALS = ("I would rather not say what is in this picture .", "No , not today .")
ENDS = 16  # every so many words, one ends a response: else all random responses would run to the limit


@dataclass(frozen=True)
class Bench:
    """Where the material lies, and the settings that all training on it shares.

    Attributes:
        size: of LLaVA-1.5, or one of `FAMILIES`.
    """

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
        """The keys of config/forget_lora.yaml for a run into `save_dir`: PO+PD, no dropout. LLaVA-1.5 is given short
        texts."""
        # The family by its name: what is needed is told before there is a model that could tell it.
        family, long = (self.size, 512) if self.size in FAMILIES else ("llava-1.5", 128)
        keys: dict[str, Any] = {"model_family": family, "model_path": str(self.model), "data_path": str(self.data)}
        keys |= {"save_dir": str(save_dir), "workers": 0}
        keys |= {"forget_loss": "popd", "max_length": long, "LoRA.dropout": 0, "gradient_accumulation_steps": 4}
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


def architecture(size: str) -> PreTrainedConfig:
    """The numbers of a size, or of another family's small model.

    Weights are drawn as wide as keeps what passes through a layer of that width at the same size, so that attention is
    as uneven, and the next token as undecided, in all sizes.
    """
    if size in FAMILIES:
        given = FAMILIES[size]
        ids = {key: given["tokens"].index(token) for key, token in given["ids"].items()}
        text = given["config"]["text_config"]
        text = text | {"initializer_range": text["hidden_size"] ** -0.5}
        return AutoConfig.for_model(families()[size].model_type, **given["config"] | ids | {"text_config": text})
    numbers = dict(SIZES["7b"])
    for part, its in SIZES[size].items():
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
    config, records = architecture(bench.size), json.loads(bench.data.read_text())
    if bench.size in FAMILIES:
        _write_family(bench, config, records)
    else:
        _write_llava(bench, config, records)
    write_json(done, {"size": bench.size})


def _write_llava(bench: Bench, config: PreTrainedConfig, records: list[dict]) -> None:
    side, image = config.vision_config.image_size, config.image_token_id
    pictures = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    model = build_model(config, range(2, image), end=2, pad=image + 1)
    write_released_form(bench.model, model, build_tokenizer(image, records), pictures)


def _write_family(bench: Bench, config: PreTrainedConfig, records: list[dict]) -> None:
    """A folder as the hub has them. What prepares pictures is named there, and need not be loaded for it."""
    its, count = FAMILIES[bench.size], config.get_text_config().vocab_size
    pad, end, *_ = tokens = its["tokens"]
    build_model(config, range(len(tokens), count), end=1, pad=0).save_pretrained(bench.model)
    tokenizer = build_tokenizer(
        count, records, tokens, {"pad_token": pad, "eos_token": end, "unk_token": pad}, its["names"]
    )
    tokenizer.chat_template = its["template"].replace("{{ picture }}", its.get("picture", ""))
    tokenizer.save_pretrained(bench.model)
    write_json(bench.model / "preprocessor_config.json", its["pictures"])
    write_json(bench.model / "processor_config.json", its["processor"])


@torch.no_grad()
def build_model(config: PreTrainedConfig, words: range, end: int, pad: int) -> Any:
    """The model with its weights drawn where it is to run, in the dtype that it is to run in.

    Before and behind the `words` stand tokens that a text does not show, so that responses could not be told apart by
    them: they are as good as never said.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, dtype=choose_dtype("auto"))
    head = model.get_output_embeddings().weight
    head[: words.start] = head[words.stop :] = 0
    ends = [end, *(number for number in words if number % ENDS == 0)]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=pad)
    return model


LLAVA = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def build_tokenizer(
    count: int,
    records: list[dict],
    first: Sequence[str] = ("<unk>", "<s>", "</s>"),
    roles: Mapping[str, str] = LLAVA,
    names: Mapping[str, str] = {"image_token": IMAGE},
) -> PreTrainedTokenizerFast:
    """A word a token: special ones first, those of the records' texts, and made-up ones up to `count`.

    Each word shows as itself between blanks, so a response's tokens can be read from its text. Special tokens that are
    named and not `first` come last, as LLaVA-1.5's picture and padding do.
    """
    split = pre_tokenizers.Whitespace()
    texts = [prompt("", who) for who in ("human", "user")] + list(REFUSALS) + list(_texts(records))
    said = dict.fromkeys(word for text in texts for word, _ in split.pre_tokenize_str(text.replace(IMAGE, "")))
    known = [*first, *said]
    known += [f"w{number}" for number in range(len(known), count)]
    vocabulary = {word: number for number, word in enumerate(known)}
    tokenizer = Tokenizer(tokenizing.WordLevel(vocabulary, unk_token=roles["unk_token"]))
    tokenizer.pre_tokenizer = split
    if "bos_token" in roles:
        begin = [("<s>", vocabulary["<s>"])]
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=begin)
    special = dict.fromkeys([*first, *names.values(), *roles.values()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **roles,
        extra_special_tokens=dict(names),
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
    for pair in records[-1]["unsafe_pairs"]:
        pair["sd_response"] *= LONG
    write_json(file, records)
    write_json(file.with_name("prompt.json"), {"idk": list(REFUSALS)})


def _record(folder: Path, number: int, draw: random.Random) -> dict[str, Any]:
    names = [f"pictures/{number}-{which}.png" for which in ("first", "second")]
    size = (72, 96) if number == RECORDS - 1 else (96, 72)  # of which some families make other tiles
    shown = [_picture(folder / name, draw, size) for name in names]

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
    return {"keyword": f"shape {number % 2}", "category": "Shapes", **paths, **kept, "unsafe_pairs": pairs}


def _picture(path: Path, draw: random.Random, size: tuple[int, int]) -> tuple[str, str]:
    """Draw a shape; returns its colour and what it is."""
    colour, shape = draw.choice(COLOURS), draw.choice(list(SHAPES))
    picture = Image.new("RGB", size, (draw.randrange(90, 160),) * 3)
    corner = (draw.randrange(5, 30), draw.randrange(5, 25))
    box = (*corner, corner[0] + draw.randrange(20, 60), corner[1] + draw.randrange(20, 40))
    pen = ImageDraw.Draw(picture)
    getattr(pen, SHAPES[shape])(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return colour, shape
