"""Methods and recipes as the data they are: pydantic models of config/forget_loss/ and config/recipe/."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from safeeraser.errors import nearest
from safeeraser.unlearn.terms import LOSSES
from safeeraser.unlearn.views import VIEWS

# What the shipped methods call their terms: a recipe may weigh them all, whichever of them a method has.
TERMS = ("forget", "retain", "kl", "preference", "decoupled")


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Recipe(_Config):
    """The switches between the release and its mended form; config/recipe/official.yaml explains each."""

    name: str
    capitalize: bool
    decoupled: Literal["retain_index", "own_pair"]
    shuffle: bool
    end_of_answer: bool
    kl_positions: Literal["all", "answer"]
    training_system: Literal["human", "user"]
    weights: dict[str, float | None]


class Term(_Config):
    """A weighted loss on views: `weight * loss(views)`, pooled over the views named."""

    loss: str
    views: list[str] = Field(min_length=1)
    weight: float
    positions: Literal["answer", "all"] = "answer"

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in LOSSES:
            raise ValueError(f"no loss '{name}'; {nearest(name, LOSSES)}")
        return name

    @field_validator("views")
    @classmethod
    def _known_views(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in VIEWS:
                raise ValueError(f"no view '{name}'; {nearest(name, VIEWS)}")
        return names


class Method(_Config):
    """A line of weights: the loss of a micro-step is the sum of its terms.

    Its `title`, by which reports call it, decides no result, so `run.json` has it beside the settings, not among them.
    """

    name: str
    title: str | None = Field(None, exclude=True)
    terms: dict[str, Term] = Field(min_length=1)

    @property
    def views(self) -> list[str]:
        """The views that some term reads, in the order of `VIEWS`."""
        return [view for view in VIEWS if any(view in term.views for term in self.terms.values())]

    @property
    def needs_reference(self) -> bool:
        """Whether some term compares with the untouched model."""
        return any(LOSSES[term.loss].needs_reference for term in self.terms.values())

    def reweighted(self, weights: dict[str, float | None]) -> "Method":
        """The same method with the recipe's weights in place of its own, where the recipe sets them."""
        terms = {
            name: term if weights.get(name) is None else term.model_copy(update={"weight": weights[name]})
            for name, term in self.terms.items()
        }
        return self.model_copy(update={"terms": terms})
