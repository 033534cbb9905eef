"""The sections of the settings: keys that have keys of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, field_validator, model_validator

from safeeraser.benchmark.pages import Keys, one_as_list, one_of
from safeeraser.unlearn.objective.method import VIEWS


class Lora(Keys):
    """The adapter: rank `r`, scaled by alpha / r, or by alpha / sqrt(r) with `use_rslora`. It sits on the layers
    `targets`; None means the layers that the model family names."""

    r: int = Field(ge=1)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    targets: tuple[str, ...] | None = Field(min_length=1)
    use_rslora: bool
    use_dora: bool
    init_lora_weights: bool | str

    @field_validator("init_lora_weights")
    @classmethod
    def _leaves_the_base_as_it_is(cls, value: bool | str) -> bool | str:
        if isinstance(value, str) and value not in ("gaussian", "orthogonal"):
            raise ValueError(
                "must be true, false, gaussian or orthogonal; the others change the base model, which is the "
                "reference, or ask for data"
            )
        return value


class Stop(Keys):
    """Bounds that end a run (hooks/ending.py)."""

    not_finite: bool
    forget_loss: float | None
    retain_loss: float | None


class Compared(Keys):
    """The gradient mask: which of LoRA's weights are trained (hooks/mask.py)."""

    model_config = ConfigDict(serialize_by_alias=True)

    top: float = Field(0.5, gt=0, le=1)
    from_: Annotated[str, one_of("view", VIEWS)] = Field("forget", alias="from")
    against: Annotated[str, one_of("view", VIEWS)] = "retain"
    items: int = Field(32, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _has_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping | Compared):
            raise ValueError("must be null, or have keys: {top: 0.5}; with {} all are the defaults")
        return value

    @model_validator(mode="after")
    def _two_views(self) -> "Compared":
        if self.from_ == self.against:
            raise ValueError(f"compares the views `from` and `against`, and both are {self.against}")
        return self

    @property
    def views(self) -> list[str]:
        """Both views, in the order of `VIEWS`."""
        return [view for view in VIEWS if view in (self.from_, self.against)]


class Probe(Keys):
    """The questions of the probes, and the length of responses (hooks/probe.py)."""

    data_path: Path
    prompts: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)


class ViewSource(Keys):
    """Where a view's conversations are in a data file; config/data/ says what each key means."""

    image: Annotated[Annotated[list[str], Field(min_length=1)] | None, BeforeValidator(one_as_list)]
    question: str
    answer: str | None = None
    pairs: str | None = None
    where: dict[str, Any] | None = None
    file: str | None = None


class DataSource(Keys):
    """A data adapter: where the views of one kind of data file come from."""

    name: str
    views: Annotated[dict[str, ViewSource], one_of("view", VIEWS)]

    @field_validator("views")
    @classmethod
    def _views(cls, views: dict[str, ViewSource]) -> dict[str, ViewSource]:
        for name, view in views.items():
            if view.answer is None and name != "refusal":
                raise ValueError(f"view '{name}' names no answer")
        return views

    def file_of(self, view: str, data_path: Path) -> Path:
        """The data file that a view is read from."""
        return data_path.parent / (self.views[view].file or data_path.name)
