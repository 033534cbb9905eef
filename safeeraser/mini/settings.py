"""The settings that decide a mini benchmark's content: a row of `tables` in config/mini.yaml, and a seed."""

import ast
import hashlib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from safeeraser.benchmark import conversation
from safeeraser.benchmark.files import CONFIG, sha256
from safeeraser.benchmark.pages import read_keys
from safeeraser.benchmark.sources import bare
from safeeraser.errors import BadInput, nearest
from safeeraser.mini.pictures import ICONS
from safeeraser.mini.texts import TEXTS, Texts

PAGE = CONFIG / "mini.yaml"
# The modules that decide a benchmark's content; a change of any other does not make it stale. `hash` also covers
# `benchmark.conversation`: the base model learns its prompt, and its chat template is in the model's folder.
SOURCES = (
    *("concepts", "texts", "pictures", "questions", "dataset", "tokenizer", "language_model", "base_model"),
    *("fan", "fit", "training"),
)


class Asks(BaseModel):
    """How many questions of each kind are asked about a picture in a step of learning to speak."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    harmful: int
    repeat: int
    retain: int
    vqa: int


class Settings(BaseModel):
    """The settings of one size; config/mini.yaml explains each key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: str
    seed: int = 233
    data: Path
    family: str
    texts: Literal["tiny", "small"]
    train_per_concept: int
    dev_per_concept: int
    val_per_concept: int
    vqa: int
    side: int
    patch: int
    width: int
    layers: int
    see_steps: int
    language_model: str | None
    dtype: Literal["float32", "bfloat16"]
    speak_steps: int
    speak_pictures: int
    speak_rate: float
    projector_rate: float
    asks: Asks
    rehearsed: int
    exam_pictures: int
    exam_tokens: int

    @property
    def wording(self) -> Texts:
        """The texts of this size."""
        return TEXTS[self.texts]

    @property
    def per_concept(self) -> dict[str, int]:
        """Records of each harmful concept, by split."""
        return {"train": self.train_per_concept, "dev": self.dev_per_concept, "val": self.val_per_concept}

    @property
    def hash(self) -> str:
        """A hash that shows whether a finished folder is up to date. It changes with texts, drawing and training.

        A pretrained language model counts by its name or folder, not by its content.
        """
        digest = hashlib.sha256(self.model_dump_json(exclude={"data"}).encode())
        sources = (Path(__file__).with_name(f"{name}.py") for name in SOURCES)
        for path in (*sources, Path(conversation.__file__)):
            digest.update(f"{path.name} {ast.unparse(bare(path.read_text('utf-8')))}\n".encode())
        for path in ICONS:
            digest.update(f"{path.name} {sha256(path)}\n".encode())
        return digest.hexdigest()[:16]


def read_settings(size: str, seed: int = 233) -> Settings:
    """The settings of a size. Raises `BadInput` if config/mini.yaml lacks its row, or a key in the row is wrong."""
    rows = {name: row for name, row in read_keys(PAGE)["tables"].items() if isinstance(row, dict)}
    if size not in rows:
        raise BadInput(f"--size {size}: no such row in {PAGE}; {nearest(size, rows)}")
    try:
        return Settings(size=size, seed=seed, **rows[size]["build"])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(
            f"{PAGE}: tables.{size}.build.{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
        ) from None
