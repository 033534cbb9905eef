"""The engine: what accelerate's launcher starts and how it shares the work, read from its file or its environment.

`accelerate launch --config_file FILE forget.py` turns FILE into environment variables for each process; a dry run, in
one process of its own, reads FILE itself. Both must agree with the settings before anything is loaded.
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

LEFT_OPEN = ("auto", "none", "no", "", None)  # what a key says that decides nothing
DTYPE_OF = {"bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True)
class Engine:
    """How many processes train, and what each holds.

    `name` is one of `single`, `ddp`, `zero1`, `zero2`, `zero3`, `fsdp`. `accumulation` and `mixed_precision` are None
    where the engine leaves them to the settings; `here` is how many of the processes take a GPU of this machine.
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
        """Whether it is DeepSpeed, at any stage."""
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
        """What `run.json` says of it: nothing of how it lies on machines, which does not decide the result."""
        return {key: value for key, value in asdict(self).items() if value is not None and key != "here"}


def engine_of(settings: Settings) -> Engine:
    """The engine that this process runs under; in a dry run without one, what `engine` names; else one process. Raises
    `BadInput` where the file named is none of accelerate's, or it was named without being used."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # which accelerate's launcher always says
        return _from_environment(os.environ)
    if settings.engine is None:
        return Engine()
    if not settings.dry_run:
        raise BadInput(
            f"engine={settings.engine}: says in a dry run what will be launched; to train under it, run "
            f"'ACCELERATE_CONFIG={settings.engine} bash scripts/forget_lora.bash ...'"
        )
    return engine_of_file(settings.engine)


def engine_of_file(file: Path) -> Engine:
    """What a file of accelerate's says. Raises `BadInput` if it is none."""
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
    """The engine of this kind, with what accelerate's file says of DeepSpeed as its `options`."""
    if kind not in ("DEEPSPEED", "FSDP"):
        options = {}
    if (file := options.get("deepspeed_config_file")) not in LEFT_OPEN:  # a configuration of DeepSpeed's
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
    """Refuse an engine that contradicts the settings, or is too large for a plan of `items`."""
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
            f"engine: {engine.processes} processes for {items} items, which make {items // settings.batch_size} whole "
            f"micro-steps of batch_size={settings.batch_size}; launch fewer"
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
        raise BadInput(f"step={settings.step.name}: not in float16, where losses are scaled; dtype=bfloat16 needs none")
    if settings.mask and engine.shards_weights:
        raise BadInput(
            f"mask: compares the gradients of whole weights, which {engine.name} shares out; use one GPU, ddp or zero2"
        )
    if settings.quantization != "none" and engine.shards_weights:
        raise BadInput(
            f"quantization={settings.quantization}: {engine.name} cannot shard 4-bit weights; use one GPU, ddp or zero2"
        )


def share_out_layers(model: nn.Module, family: Family) -> None:
    """Have FSDP share the language model out layer by layer, of whatever class they are. Before Trainer is made.

    accelerate reads the names of classes from its launcher's environment, which has them from the engine's file: a file
    that named one would serve one family, and transformers' own list shares out a vision tower's layers too, which
    `memory.held` does not count on.
    """
    layers = {type(layer).__name__ for layer in language_layers(model, family)}
    os.environ["FSDP_TRANSFORMER_CLS_TO_WRAP"] = ",".join(sorted(layers))


def check_running(engine: Engine, arguments: TrainingArguments) -> None:
    """Refuse to train under another engine than the one asked for, which accelerate falls back to quietly on CPUs."""
    runs = arguments.distributed_state.distributed_type.value
    if (engine.deepspeed and runs != "DEEPSPEED") or (engine.name == "fsdp" and not runs.startswith("MULTI_GPU")):
        raise BadInput(f"engine: {engine.name} was asked for, but accelerate runs {runs} on this machine")
    if arguments.world_size != engine.processes:
        raise BadInput(f"engine: {engine.processes} processes were asked for, but {arguments.world_size} run")
