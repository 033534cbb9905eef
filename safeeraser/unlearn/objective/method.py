"""Methods and recipes as data: pydantic models of the files in config/forget_loss/ and config/recipe/."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import torch
from pydantic import (
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    TypeAdapter,
    WrapValidator,
    create_model,
    model_validator,
)
from torch import Tensor, nn

from safeeraser.benchmark.pages import Keys, one_of
from safeeraser.errors import BadInput
from safeeraser.unlearn.objective.losses import LOSSES

# forget: harmful picture, harmful question, the vanilla model's answer
# retain: harmful picture, harmless question, the sentence that answers it
# decoupled: benign picture, the same harmful question, the normal answer
# refusal: harmful picture, harmful question, a refusal drawn from prompt.json
VIEWS = ("forget", "retain", "decoupled", "refusal")
# The terms of the shipped methods. A recipe may set a weight for each, even if a method has only some of the terms.
TERMS = ("forget", "retain", "kl", "preference", "decoupled")


class Dual(Keys):
    """A weight that follows its term's loss. After each optimizer step it changes by `rate` times (loss - `at_most`),
    and it never falls below 0 (Entesari et al. 2025, arXiv 2506.05314).

    Attributes:
        at_most: the bound, in the loss's own unit.
        start: the weight of the first step.
    """

    at_most: float
    rate: PositiveFloat = 1.0
    start: NonNegativeFloat = 1.0

    def after(self, weight: float, loss: float) -> float:
        """The next step's weight: `weight` is this step's, and `loss` is the term's mean over this step."""
        return max(0.0, weight + self.rate * (loss - self.at_most))


class Ramp(Keys):
    """A weight that changes linearly over the run: `from` before the first optimizer step, `to` after the last one.
    Circuit breakers (Zou et al. 2024, arXiv 2406.04313) go from alpha to alpha / 2 on forget, and from 0 to alpha / 2
    on retain."""

    model_config = ConfigDict(serialize_by_alias=True)

    from_: float = Field(alias="from")
    to: float

    @property
    def start(self) -> float:
        """The weight of the first step."""
        return self.from_

    def at(self, done: int, steps: int) -> float:
        """The weight after `done` of a run's `steps` optimizer steps."""
        return self.from_ + (self.to - self.from_) * done / steps


def or_moving(number: Any) -> WrapValidator:
    """A validator for a weight that is either a `number` or a moving weight. A plain union would report a bad weight's
    errors once for each type."""
    numbers = TypeAdapter(number)

    def either(value: Any, _: Any) -> float | Dual | Ramp:
        if isinstance(value, Ramp) or (isinstance(value, Mapping) and {"from", "to"} & set(value)):
            return Ramp.model_validate(value)
        return Dual.model_validate(value) if isinstance(value, Mapping | Dual) else numbers.validate_python(value)

    return WrapValidator(either)


Weight = Annotated[float | Dual | Ramp, or_moving(float)]


class Recipe(Keys):
    """The switches between the release and its corrected form; config/recipe/official.yaml explains each switch."""

    name: str
    capitalize: bool
    decoupled: Literal["retain_index", "own_pair"]
    shuffle: bool
    end_of_answer: bool
    kl_positions: Literal["all", "answer"]
    training_system: Literal["human", "user"]
    weights: dict[str, Weight | None]


class Term(Keys):
    """A weighted loss on views: `weight * loss(views)`, pooled over the views named.

    The weight is a number, a dual weight or a ramp. Each loss has a subclass of this class, whose further fields are
    the parameters of the loss.

    Attributes:
        positions: `answer`: where the answer is predicted, or for a layer's states the answer itself; `row`: all of the
            term's rows; `all`: up to the end of the item's longest row, padding included, as the release's KL does.
    """

    loss: str
    views: Annotated[list[str], Field(min_length=1), one_of("view", VIEWS)]
    weight: Weight
    positions: Literal["answer", "row", "all"] = "answer"

    @model_validator(mode="after")
    def _views_of_the_loss(self) -> "Term":
        wanted = LOSSES[self.loss].views
        if wanted and (len(self.views) != wanted or len(set(self.views)) != wanted):
            raise ValueError(f"the loss {self.loss} takes {wanted} {'views' if wanted > 1 else 'view'}")
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """The values of the loss's parameters, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in Term.model_fields}

    @property
    def reads(self) -> tuple[int | None, ...]:
        """The language model's layers whose states the term reads; a single None: it reads logits."""
        return tuple(self.parameters.get("layers") or (self.parameters.get("layer"),))


TERM_OF: dict[str, type[Term]] = {
    name: create_model(
        f"Term_{name}", __base__=Term, __module__=__name__, **({"loss": (Literal[name], name)} | loss.keys)
    )
    for name, loss in LOSSES.items()
}
globals().update((kind.__name__, kind) for kind in TERM_OF.values())  # unpickling looks for them here
if TYPE_CHECKING:
    AnyTerm = Term
else:
    AnyTerm = Annotated[Union[tuple(TERM_OF.values())], Field(discriminator="loss")]  # noqa: UP007


class Method(Keys):
    """A method: the terms whose weighted sum is the loss of a micro-step.

    Reports call the method by its `title`. It decides no result, so `run.json` keeps it outside the settings.
    """

    name: str
    title: str | None = Field(None, exclude=True)
    terms: dict[str, AnyTerm] = Field(min_length=1)

    @property
    def views(self) -> list[str]:
        """The views that some term reads, in the order of `VIEWS`."""
        return [view for view in VIEWS if any(view in term.views for term in self.terms.values())]

    @property
    def needs_reference(self) -> bool:
        """Whether some term compares with the untouched model."""
        return any(LOSSES[term.loss].needs_reference for term in self.terms.values())

    @property
    def moving(self) -> dict[str, Dual | Ramp]:
        """The weights that change from step to step, by term name."""
        return {name: term.weight for name, term in self.terms.items() if not isinstance(term.weight, float)}

    @property
    def reads_padding(self) -> bool:
        """Whether some term reads the model's outputs on padding."""
        return any(term.positions == "all" for term in self.terms.values())

    @property
    def starts_flat(self) -> bool:
        """Whether no term has a gradient when the model equals the untouched one."""
        return all(LOSSES[term.loss].starts_flat for term in self.terms.values())

    @property
    def top(self) -> int | None:
        """The highest layer of the language model that a term reads; None if some term reads logits."""
        read = [layer for term in self.terms.values() for layer in term.reads]
        layers = [layer for layer in read if layer is not None]
        return max(layers) if len(layers) == len(read) else None

    def losses(self, model: nn.Module, seed: int, device: torch.device | str) -> dict[str, Callable[[Any], Tensor]]:
        """The loss of each term as a function of the positions that it reads; everything else that it needs is bound.

        Args:
            model: the model that is trained, or its outline.

        Raises:
            BadInput: a term names a layer that the model does not have, or a loss's other inputs cannot be made.
        """
        text = model.config.get_text_config()
        for name, term in self.terms.items():
            layers = [layer for layer in term.reads if layer is not None]
            if layers and max(layers) >= text.num_hidden_layers:
                (key,) = LOSSES[term.loss].states
                raise BadInput(
                    f"forget_loss.terms.{name}.{key}={term.parameters[key]}: the language model has "
                    f"{text.num_hidden_layers} layers, numbered from 0"
                )
        given = {"width": text.hidden_size, "seed": seed, "device": device}
        return {name: LOSSES[term.loss].ready(term.parameters, **given) for name, term in self.terms.items()}

    def of_terms(self, names: Iterable[str]) -> "Method":
        """The same method with only the terms named."""
        return self.model_copy(update={"terms": {name: self.terms[name] for name in names}})

    def reweighted(self, weights: Mapping[str, Weight | None]) -> "Method":
        """The same method with the recipe's weights in place of its own, where the recipe sets them."""
        terms = {
            name: term if weights.get(name) is None else term.model_copy(update={"weight": weights[name]})
            for name, term in self.terms.items()
        }
        return self.model_copy(update={"terms": terms})
