"""The keys of config/forget_lora.yaml with their types and bounds; `read` checks a composed config against them."""

from pathlib import Path
from typing import Annotated, Any, Literal

from peft import LoraConfig
from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt, field_validator, model_validator
from transformers import SchedulerType

from safeeraser.benchmark.family import Family
from safeeraser.benchmark.pages import Keys, one_as_list, one_of
from safeeraser.errors import nearest
from safeeraser.model.lora import lora_config
from safeeraser.model.projector import PROJECTORS, Way
from safeeraser.unlearn.config.sections import Compared, DataSource, Lora, Probe, Stop
from safeeraser.unlearn.objective.method import TERMS, VIEWS, Dual, Method, Ramp, Recipe, or_moving
from safeeraser.unlearn.objective.step import AnyStep


class Settings(Keys):
    """One run's settings; config/forget_lora.yaml says what each key means."""

    model_family: Family
    # Shorthands for weights, which `read` has copied into the method's terms. Listed first, so errors name them first.
    pd: Annotated[float | Dual | Ramp, or_moving(Annotated[FiniteFloat, Field(gt=0)])] | None = Field(exclude=True)
    retain: Annotated[float | Dual | Ramp, or_moving(Annotated[FiniteFloat, Field(ge=0)])] | None = Field(exclude=True)
    forget_loss: Method
    step: AnyStep
    recipe: Recipe
    model_path: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    quantization: Literal["none", "nf4"]
    attention: Literal["auto", "eager", "sdpa", "sdpa_cudnn", "flash_attention_2"]
    finetune: Literal["lora", "full"]
    LoRA: Lora
    tune_language_model: bool
    projector: Annotated[str, one_of("projector", PROJECTORS)]
    tune_mm_projector: bool  # the release's key: false means `projector: frozen`; once checked, the two agree
    tune_vision_tower: bool
    init_adapter: Path | None
    mask: Compared | None
    allow_other_base: bool
    data: DataSource
    data_path: Path
    split: Literal["all"] | list[str]
    limit: int | None = Field(ge=1)
    bad_items: Literal["stop", "skip"]
    max_bad_items: float = Field(ge=0, lt=1)
    plan: Path | None
    max_length: int = Field(ge=1)
    workers: int = Field(ge=0)
    lr: float = Field(gt=0)
    lr_scheduler_type: Annotated[str, one_of("schedule", [kind.value for kind in SchedulerType])]
    warmup_ratio: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    max_grad_norm: float = Field(ge=0)
    batch_size: int = Field(ge=1)
    gradient_accumulation_steps: int = Field(ge=1)
    num_epochs: int = Field(ge=1)
    # The release writes -1 for no limit.
    max_train_steps: Annotated[PositiveInt | None, BeforeValidator(lambda steps: None if steps == -1 else steps)]
    gradient_checkpointing: bool
    trainer: dict[str, Any]
    seed: int = Field(ge=0, lt=2**32)
    deterministic: bool
    stop: Stop
    probe_every: int = Field(ge=0)
    probe: Probe
    save_dir: Path
    overwrite_dir: bool
    save_model: bool
    save_steps: int | list[int]
    save_total_limit: int = Field(ge=1)
    resume_from_checkpoint: Annotated[str | None, BeforeValidator(lambda folder: None if folder == "" else folder)]
    report_to: Annotated[
        list[Literal["none", "tensorboard", "wandb"]], BeforeValidator(lambda value: one_as_list(value or "none"))
    ]
    push_to_hub: bool
    hub_model_id: str | None
    hub_private: bool
    dry_run: bool
    engine: Path | None
    gpu_memory: float | None = Field(gt=0)
    tables: dict[str, Any]  # only interpolations in other keys read it

    @field_validator("model_path", mode="before")
    @classmethod
    def _model_path(cls, value: Any) -> Any:
        if value is None:
            raise ValueError("model_family names a whole family: say which model of it")
        return value

    @field_validator("split", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if value == []:
            raise ValueError("must be all, or name a category")
        return [value] if isinstance(value, str) and value != "all" else value

    @field_validator("save_steps", mode="before")
    @classmethod
    def _save_steps(cls, value: Any) -> Any:
        after = value if isinstance(value, list) else [value or 1]
        if not after or not all(type(step) is int and step >= 1 for step in after):
            raise ValueError("must be a whole number of at least 0, or a list of steps of at least 1")
        return value

    @model_validator(mode="after")
    def _projector(self) -> "Settings":
        """Merge the two keys: `tune_mm_projector=false` means `projector=frozen`. Afterwards they agree."""
        if not self.tune_mm_projector and self.projector_way.of_adapter:
            raise ValueError(f"projector={self.projector}: not with tune_mm_projector=false, which is projector=frozen")
        within = any(part.startswith(f"{self.family.vision_tower}.") for part in self.family.projector)
        if self.projector_way.stored == "lora" and self.tune_vision_tower and within:
            raise ValueError(
                f"projector={self.projector}: it lies within the vision tower, which tune_vision_tower=true trains "
                "whole"
            )
        how = self.projector if self.tune_mm_projector else "frozen"
        return self.model_copy(update={"projector": how, "tune_mm_projector": how != "frozen"})

    @model_validator(mode="after")
    def _goes_together(self) -> "Settings":
        if self.attention == "flash_attention_2" and not self.model_family.flash_attention:
            raise ValueError(
                f"attention=flash_attention_2: not with {self.model_family.name}: its mask lets a picture's tokens see "
                "each other, and flash-attn would leave that out; attention=auto takes SDPA"
            )
        refused = {
            f"cannot use projector={self.projector}, which only an adapter has": self.projector_way.of_adapter,
            "nothing to train, since no tune_* is true": not self.trained_parts,
            "cannot use mask, which selects LoRA weights": self.mask,
            "cannot use init_adapter; 'python -m safeeraser.model merge' makes a model of it": self.init_adapter,
            f"cannot train weights in 4 bits (quantization={self.quantization})": self.quantization != "none",
        }
        if self.finetune == "full" and (reasons := [reason for reason, holds in refused.items() if holds]):
            raise ValueError(f"finetune=full: {reasons[0]}")
        compared = {"from": self.mask.from_, "against": self.mask.against} if self.mask else {}
        for key, view in compared.items():
            if view not in self.data.views:
                there = ", ".join(self.data.views)
                raise ValueError(f"mask.{key}={view}: data={self.data.name} has no such view; known: {there}")
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("push_to_hub=true: hub_model_id must say where to, as OWNER/NAME")
        if self.push_to_hub and not self.save_model:
            raise ValueError("push_to_hub=true: nothing is left to send with save_model=false")
        known = {*TERMS, *self.forget_loss.terms}
        for name in self.recipe.weights.keys() - known:
            raise ValueError(f"recipe.weights.{name}: no method has such a term; {nearest(name, known)}")
        self.moved_terms  # noqa: B018  raises if the method has no term to move
        return self

    @property
    def trained_parts(self) -> set[str]:
        """The groups of the model's parameters that `finetune=full` trains."""
        wanted = {
            "language_model": self.tune_language_model,
            "head": self.tune_language_model,
            "projector": self.projector == "full" and self.pictured,
            "vision_tower": self.tune_vision_tower and self.pictured,
        }
        return {group for group, tuned in wanted.items() if tuned}

    @property
    def pictured(self) -> bool:
        """Whether a view of the method has pictures. Every micro-step then has some, because it has all the views."""
        return any(source.image for view, source in self.data.views.items() if view in self.method.views)

    @property
    def adapter(self) -> LoraConfig | None:
        """The configuration of the adapter: LoRA, and the parts trained in full with it. None with `finetune=full`."""
        if self.finetune == "full":
            return None
        lora = self.LoRA.model_dump(exclude={"targets"})
        copied = self.projector_way.stored == "full"
        return lora_config(self.family, **lora, projector=copied, vision=self.tune_vision_tower)

    @property
    def projector_way(self) -> Way:
        """How the projector is trained."""
        return PROJECTORS[self.projector]

    @property
    def family(self) -> Family:
        """The model family, whose `lora_targets` are `LoRA.targets` if they are set."""
        targets = self.LoRA.targets or self.model_family.lora_targets
        return self.model_family.model_copy(update={"lora_targets": targets})

    @property
    def trackers(self) -> list[str]:
        """The trackers that `report_to` names."""
        return [name for name in self.report_to if name != "none"]

    @property
    def trained_views(self) -> list[str]:
        """The views that the method or the step trains on, in the order of `VIEWS`."""
        read = {view for method in (self.method, *self.beside.values()) for view in method.views}
        return [view for view in VIEWS if view in read]

    @property
    def views(self) -> list[str]:
        """The views that are read, in training or for the mask, in the order of `VIEWS`."""
        compared = self.mask.views if self.mask else ()
        return [view for view in VIEWS if view in self.trained_views or view in compared]

    @property
    def method(self) -> Method:
        """The method, with the recipe's weight for each term where the recipe sets one."""
        return self.forget_loss.reweighted(self.recipe.weights)

    @property
    def moved_terms(self) -> list[str]:
        """The terms whose gradient the step takes at moved weights."""
        return self.step.moved_terms(self.method)

    @property
    def beside(self) -> dict[str, Method]:
        """Further methods, by name, for whose terms the step runs the model with batches of their own."""
        return self.step.beside(self.method)

    @property
    def title(self) -> str | None:
        """The name of the run's results in reports; None: reports use the method's name."""
        title = self.method.title
        return f"{title or self.method.name}{self.step.title}" if self.step.title else title
