"""Model families as data: what one calls its parts, and what its chat template leaves unsaid (config/model_family/).

A page of one size names the page that it shares with others under `defaults`, as everywhere in config/.
"""

import re
from functools import cache
from typing import Literal

from pydantic import Field

from safeeraser.benchmark.files import CONFIG
from safeeraser.benchmark.pages import Keys, check_keys, read_page
from safeeraser.errors import BadInput

PAGES = CONFIG / "model_family"
COPIES = re.compile(r"\.(modules_to_save\.\w+|original_module)\.")  # what PEFT calls a trained part, and the untouched
AUTO = "auto"  # the page that stands for whichever the model's own configuration names


class LmmsEval(Keys):
    """lmms-eval's way to load a family.

    Attributes:
        model: its name for it.
        dtype: the one that it loads the weights in, whatever is asked; None: it takes a dtype.
    """

    model: str
    dtype: str | None = None


class Family(Keys):
    """A family, or one model of it.

    Attributes:
        model_type: what the configuration of its models says.
        model_path: where the model lies, a folder or a name on the hub; None: the page of a whole family.
        vision_tower, projector, language_model: modules, as paths below `model.`. A ModuleList of the projector's is
            trained member by member.
        lora_targets: linear layers in each of the language model's layers.
        end_of_turn: the token that ends an answer, whether the chat template writes it or not.
        chat: the wording: the folder's own chat template (None), or the release's with its two system texts.
        decoder: how questions are answered: `continuous` needs rotary positions and attention to all places, `batched`
            asks nothing of a model.
        flash_attention: whether flash-attn computes what the language model does. It takes no mask but the causal one.
        windowed_tower: whether the vision tower attends in many small windows, for each of which SDPA is called anew.
        lmms_eval: how lmms-eval is asked about it; None: it cannot be.
        license: what it is under, in the hub's word, and so whatever comes of its weights; None: not known here.
    """

    name: str
    model_type: str
    model_path: str | None = None
    vision_tower: str
    projector: tuple[str, ...] = Field(min_length=1)
    language_model: str
    lora_targets: tuple[str, ...] = Field(min_length=1)
    end_of_turn: str
    chat: Literal["vicuna_v1"] | None = None
    decoder: Literal["continuous", "batched"]
    flash_attention: bool = True
    windowed_tower: bool = False
    lmms_eval: LmmsEval | None = None
    license: str | None = None

    def part_of(self, name: str) -> str:
        """The part that a parameter or a module belongs to: `LoRA`, `projector`, `vision_tower`, `language_model`, or
        `head` for all else."""
        if ".lora_" in name:
            return "LoRA"
        name = COPIES.sub(".", name)  # which may be a part of a part's name: a projector's in a vision tower
        parts = dict.fromkeys(self.projector, "projector")
        parts |= {self.vision_tower: "vision_tower", self.language_model: "language_model"}
        # A projector may lie within the vision tower, so it is looked for first.
        return next((group for part, group in parts.items() if f".{part}." in f".{name}."), "head")

    def in_layers(self, name: str) -> bool:
        """Whether a parameter or a module lies in a layer of the language model."""
        return f".{self.language_model}.layers." in f".{name}"


def _names() -> list[str]:
    return sorted(file.stem for file in PAGES.glob("*.yaml") if file.stem != AUTO)


@cache
def families() -> dict[str, Family]:
    """All families and their models, by name. Raises `BadInput` naming the page and the key that is wrong."""
    return {name: _family(name) for name in _names()}


def _family(name: str) -> Family:
    page = PAGES / f"{name}.yaml"
    return check_keys(Family, LmmsEval, read_page(page, PAGES), page)


def page_for(model_path: str) -> Family | None:
    """The page whose model this is by its path."""
    return next((family for family in families().values() if family.model_path == model_path), None)


def page_of(model_type: str, name: str | None, model_path: str) -> Family:
    """The page that a model's configuration names as its `model_family`, else the one for its type.

    Raises `BadInput` if there is none.
    """
    if not name:
        try:
            return page_of_type(model_type)
        except BadInput as error:
            raise BadInput(f"model_path {model_path}: {error}") from None
    page = families().get(name)
    if page is None or page.model_type != model_type:
        raise BadInput(
            f"model_path {model_path}: its config.json names model_family '{name}', and config/model_family has no "
            f"such page of '{model_type}' models"
        )
    return page


def page_of_type(model_type: str | None) -> Family:
    """The page of the family whose configurations say `model_type`. Raises `BadInput` if there is none."""
    known = families().values()
    pages = [family for family in known if family.model_type == model_type]
    if not pages:
        raise BadInput(
            f"a '{model_type}' model, for which config/model_family has no page; known: "
            f"{', '.join(sorted({family.model_type for family in known}))}. docs/reference/models.md says how"
            " to add one"
        )
    return min(pages, key=lambda family: family.model_path is not None)
