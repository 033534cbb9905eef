"""The engine: how many processes accelerate starts and how they share the work, read from its file or environment.

`accelerate launch --config_file FILE forget.py` turns FILE into environment variables for each process. A dry run
without a launcher reads FILE itself. `check_engine` compares the engine with the settings before a model is loaded.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from accelerate.commands.config.config_args import load_config_from_file
from torch import nn
from transformers import TrainingArguments

from safeeraser.benchmark.family import Family
from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput
from safeeraser.model.states import language_layers
from safeeraser.unlearn.config.settings import Settings

LEFT_OPEN = ("auto", "none", "no", "", None)  # values of a key that leave it undecided
DTYPE_OF = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Engine:
    """How many processes train, and which parts of the training state each one holds.

    `name` is `single`, `ddp`, `fsdp`, or `zero` with DeepSpeed's stage, such as `zero2`. `accumulation` and
    `mixed_precision` are None if the settings decide. `here` counts the processes that take a GPU of this machine.
    """

    name: str = "single"
    processes: int = 1
    accumulation: int | None = None
    mixed_precision: str | None = None
    offload_optimizer: bool = False
    offload_weights: bool = False
    here: int = field(default=0, compare=False)

    @property
    def deepspeed(self) -> bool:
        """Whether the engine is DeepSpeed, at any stage."""
        return self.name.startswith("zero")

    @property
    def shards_optimizer(self) -> bool:
        """Whether each process keeps only a part of the optimizer's state."""
        return self.name in ("zero1", "zero2", "zero3", "fsdp")

    @property
    def shards_gradients(self) -> bool:
        """Whether each process keeps only a part of the gradients."""
        return self.name in ("zero2", "zero3", "fsdp")

    @property
    def shards_weights(self) -> bool:
        """Whether each process keeps only a part of the weights."""
        return self.name in ("zero3", "fsdp")

    @property
    def record(self) -> dict[str, Any]:
        """The entry `engine` of `run.json`. It leaves out `here`, because the machines do not decide the result."""
        return {key: value for key, value in asdict(self).items() if value is not None and key != "here"}


def engine_of(settings: Settings) -> Engine:
    """The engine that this process runs under. Without a launcher, a dry run takes the engine of the file `engine`,
    else one process runs. Raises `BadInput` if accelerate cannot use the file, or has not launched this run with it."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # accelerate's launcher always sets it
        return _from_environment(os.environ)
    if settings.engine is None:
        return Engine()
    if not settings.dry_run:
        raise BadInput(
            f"engine={settings.engine}: only a dry run reads this key; to train under this file, run "
            f"'ACCELERATE_CONFIG={settings.engine} bash scripts/forget_lora.bash ...'"
        )
    return engine_of_file(settings.engine)


def engine_of_file(file: Path) -> Engine:
    """Read the engine from a config file of accelerate's. Raises `BadInput` if accelerate could not use the file."""
    try:
        config = load_config_from_file(str(file))
        processes = int(config.num_processes)
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error).strip().splitlines()[0]
        raise BadInput(f"engine={file}: not a file that accelerate launch could use ({reason})") from None
    kind = getattr(config.distributed_type, "value", config.distributed_type)
    options = {"DEEPSPEED": config.deepspeed_config, "FSDP": config.fsdp_config}.get(kind) or {}
    here = 0 if config.use_cpu else processes // int(config.num_machines or 1)
    return _engine(kind, processes, here, config.mixed_precision, options, options.get("fsdp_offload_params"))


def _from_environment(environment: Mapping[str, str]) -> Engine:
    kinds = [kind for kind in ("DEEPSPEED", "FSDP") if environment.get(f"ACCELERATE_USE_{kind}", "").lower() == "true"]
    prefix = "ACCELERATE_DEEPSPEED_"
    options: dict[str, Any] = {
        name.removeprefix(prefix).lower(): value for name, value in environment.items() if name.startswith(prefix)
    }
    options["deepspeed_config_file"] = options.pop("config_file", None)
    options["gradient_accumulation_steps"] = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS")
    on_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return _engine(
        kinds[0] if kinds else "NO",
        int(environment.get("WORLD_SIZE", "1")),
        0 if on_cpu else int(environment.get("LOCAL_WORLD_SIZE", "1")),
        environment["ACCELERATE_MIXED_PRECISION"],
        options,
        environment.get("FSDP_OFFLOAD_PARAMS"),
    )


def _engine(
    kind: str, processes: int, here: int, mixed_precision: str | None, options: Mapping[str, Any], fsdp_offload: Any
) -> Engine:
    """The engine of this `kind`. `options` are the DeepSpeed settings of accelerate's file; other kinds ignore them."""
    if kind not in ("DEEPSPEED", "FSDP"):
        options = {}
    if (file := options.get("deepspeed_config_file")) not in LEFT_OPEN:  # DeepSpeed's own config file
        config = read_json(file)
        zero = config.get("zero_optimization", {})
        options = {
            "zero_stage": zero.get("stage", 0),
            "gradient_accumulation_steps": config.get("gradient_accumulation_steps"),
            "offload_optimizer_device": zero.get("offload_optimizer", {}).get("device"),
            "offload_param_device": zero.get("offload_param", {}).get("device"),
        }
    accumulation = options.get("gradient_accumulation_steps")
    offload_weights = fsdp_offload if kind == "FSDP" else options.get("offload_param_device") not in LEFT_OPEN
    plain = "ddp" if processes > 1 else "single"
    return Engine(
        name={"DEEPSPEED": f"zero{options.get('zero_stage', 2)}", "FSDP": "fsdp"}.get(kind, plain),
        processes=processes,
        accumulation=None if accumulation in LEFT_OPEN else int(accumulation),
        mixed_precision=None if mixed_precision in LEFT_OPEN else str(mixed_precision),
        offload_optimizer=options.get("offload_optimizer_device") not in LEFT_OPEN,
        offload_weights=str(offload_weights).lower() == "true",
        here=here,
    )


def check_engine(engine: Engine, settings: Settings, *, items: int) -> None:
    """Raise `BadInput` for an engine that contradicts the settings, or has too many processes for `items`."""
    accumulation, dtype = settings.gradient_accumulation_steps, settings.dtype
    if engine.accumulation not in (None, accumulation):
        raise BadInput(
            f"engine: its file says gradient_accumulation_steps {engine.accumulation}, the settings {accumulation}; "
            "write auto there, so that the settings alone say it"
        )
    if engine.mixed_precision and dtype not in ("auto", DTYPE_OF.get(engine.mixed_precision)):
        raise BadInput(f"engine: its file says mixed_precision {engine.mixed_precision}, the settings dtype={dtype}")
    if engine.processes > 1 and items < engine.processes * settings.batch_size:
        raise BadInput(
            f"engine: {engine.processes} processes, but the {items} items make only {items // settings.batch_size} "
            f"whole micro-steps of batch_size={settings.batch_size}; launch fewer processes"
        )
    optimizer = settings.trainer.get("optim", "adamw_torch")
    if engine.deepspeed and engine.offload_optimizer and str(optimizer) not in ("adamw_torch", "adamw_torch_fused"):
        raise BadInput(
            f"trainer.optim={optimizer}: where the engine offloads the optimizer, accelerate replaces it by "
            "DeepSpeed's Adam for the CPU; take config/accelerate/ddp.yaml or zero3.yaml"
        )
    if settings.finetune == "full" and settings.method.needs_reference and engine.shards_weights:
        raise BadInput(
            f"finetune=full: {settings.method.name} compares with the untouched model, which {engine.name} would not "
            "share out; use one GPU, ddp or zero2, or LoRA"
        )
    if settings.moved_terms and engine.shards_weights:
        raise BadInput(
            f"step={settings.step.name}: moves the weights, of which {engine.name} gives each process a part; use one "
            "GPU, ddp or zero2"
        )
    if settings.moved_terms and "float16" in (dtype, DTYPE_OF.get(engine.mixed_precision or "")):
        raise BadInput(
            f"step={settings.step.name}: cannot run in float16, which needs loss scaling; use dtype=bfloat16"
        )
    if settings.mask and engine.shards_weights:
        raise BadInput(
            f"mask: compares the gradients of whole weights, which {engine.name} shares out; use one GPU, ddp or zero2"
        )
    if settings.quantization != "none" and engine.shards_weights:
        raise BadInput(
            f"quantization={settings.quantization}: {engine.name} cannot shard 4-bit weights; use one GPU, ddp or zero2"
        )


def share_out_layers(model: nn.Module, family: Family) -> None:
    """Have FSDP shard the language model layer by layer, for any class of layer. Call this before Trainer is made.

    accelerate reads the class names from the environment, where its launcher puts the names in the engine's file. A
    file that named one class would serve one family only. transformers' own list shards the vision tower's layers too,
    which `memory.held` does not count on.
    """
    layers = {type(layer).__name__ for layer in language_layers(model, family)}
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = ",".join(sorted(layers))


def check_running(engine: Engine, arguments: TrainingArguments) -> None:
    """Raise `BadInput` if accelerate runs another engine than was asked for, as it does on CPUs without a warning."""
    runs = arguments.distributed_state.distributed_type.value
    if (engine.deepspeed and runs != "DEEPSPEED") or (engine.name == "fsdp" and not runs.startswith("MULTI_GPU")):
        raise BadInput(f"engine: {engine.name} was asked for, but accelerate runs {runs} on this machine")
    if arguments.world_size != engine.processes:
        raise BadInput(f"engine: {engine.processes} processes were asked for, but {arguments.world_size} run")
