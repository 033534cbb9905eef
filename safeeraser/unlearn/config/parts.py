"""The keys of config/forget_lora.yaml that have keys of their own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator, model_validator

from safeeraser.unlearn.data.views import VIEWS, Keys, one_of


class Lora(Keys):
    """The adapter: of rank `r`, its product scaled by alpha / r, or by alpha / sqrt(r) with `use_rslora`; on the layers
    `targets`, or with None on those of the model family."""

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
    """Bounds that end a run (hooks/guard.py)."""

    not_finite: bool
    forget_loss: float | None
    retain_loss: float | None


class Compared(Keys):
    """Which of LoRA's weights are trained (hooks/mask.py)."""

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
    """What the probes ask (hooks/probe.py)."""

    data_path: Path
    prompts: int = Field(ge=1)
    max_new_tokens: int = Field(ge=1)
