"""Model families as data: how they name their parts, and what their chat templates do not say (config/model_family/).

The config file of one size names under `defaults` the file that it shares with others, as everywhere in config/.
"""

import re
from functools import cache
from typing import Literal

from pydantic import Field

from safeeraser.benchmark.files import CONFIG
from safeeraser.benchmark.pages import Keys, check_keys, read_page
from safeeraser.errors import BadInput

PAGES = CONFIG / "model_family"
COPIES = re.compile(r"\.(modules_to_save\.\w+|original_module)\.")  # PEFT's names for a trained part and its original
AUTO = "auto"  # the config file that stands for the family that the model's own configuration names


class LmmsEval(Keys):
    """How lmms-eval loads a family.

    Attributes:
        model: the family's name in lmms-eval.
        dtype: the one in which it loads the weights, whatever is asked for; None: it takes a dtype.
    """

    model: str
    dtype: str | None = None


class Family(Keys):
    """A family, or one model of a family.

    Attributes:
        model_type: the `model_type` in its models' configurations.
        model_path: where the model lies, a folder or a name on the hub; None: the config file describes a family.
        vision_tower, projector, language_model: modules, as paths below `model.`. If a projector is a ModuleList, its
            members are trained one by one.
        lora_targets: names of linear layers within the language model's layers.
        end_of_turn: the token that ends an answer, whether or not the chat template writes it.
        chat: the wording: None is the folder's own chat template, `vicuna_v1` the release's with its two system texts.
        decoder: how questions are answered: `continuous` requires rotary positions and attention to all positions,
            `batched` requires nothing.
        flash_attention: whether flash-attn can compute the language model's attention; it takes the causal mask alone.
        windowed_tower: whether the vision tower attends in many small windows, each of which is a call of SDPA.
        lmms_eval: how lmms-eval loads the family; None: it cannot.
        license: the license of the weights and of models made from them, in the hub's term; None: not known here.
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
        `head` for all others."""
        if ".lora_" in name:
            return "LoRA"
        name = COPIES.sub(".", name)  # such a name may lie within a part's path: a projector in a trained vision tower
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
    """All families and their models, by name. Raises `BadInput` naming the config file and the key that is wrong."""
    return {name: _family(name) for name in _names()}


def _family(name: str) -> Family:
    page = PAGES / f"{name}.yaml"
    return check_keys(Family, LmmsEval, read_page(page, PAGES), page)


def page_for(model_path: str) -> Family | None:
    """The family whose config file has this `model_path`, if there is one."""
    return next((family for family in families().values() if family.model_path == model_path), None)


def page_of(model_type: str, name: str | None, model_path: str) -> Family:
    """The family that a model's configuration names as its `model_family`, else the family for its `model_type`.

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
            f"model_path {model_path}: its config.json names model_family '{name}', but config/model_family has no "
            f"file of that name for '{model_type}' models"
        )
    return page


def page_of_type(model_type: str | None) -> Family:
    """The family whose configurations say `model_type`, not one of its models. Raises `BadInput` if there is none."""
    known = families().values()
    pages = [family for family in known if family.model_type == model_type]
    if not pages:
        raise BadInput(
            f"config/model_family has no file for '{model_type}' models; known: "
            f"{', '.join(sorted({family.model_type for family in known}))}. docs/reference/models.md says how"
            " to add one"
        )
    return min(pages, key=lambda family: family.model_path is not None)
