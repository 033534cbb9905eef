"""LLaVA and its adapters: loading (`llava`), LoRA and the two stored forms (`adapters`), merged models (`merge`),
rounding (`rounding`)."""

from safeeraser.benchmark.files import adapter_file
from safeeraser.model.adapters import (
    adapter_config,
    attach,
    check_adapter,
    convert,
    from_release,
    load_adapted,
    load_adapter,
    lora_config,
    read_adapter,
    to_release,
    trained_parameters,
    unfreeze,
)
from safeeraser.model.llava import (
    DTYPES,
    Parts,
    Preprocessor,
    choose_attention,
    choose_dtype,
    load_config,
    load_model,
    load_preprocessor,
)
from safeeraser.model.merge import base_of, merge, write_model
from safeeraser.model.rounding import ROUNDINGS, round_weights

__all__ = [
    "DTYPES",
    "ROUNDINGS",
    "Parts",
    "Preprocessor",
    "adapter_config",
    "adapter_file",
    "attach",
    "base_of",
    "check_adapter",
    "choose_attention",
    "choose_dtype",
    "convert",
    "from_release",
    "load_adapted",
    "load_adapter",
    "load_config",
    "load_model",
    "load_preprocessor",
    "lora_config",
    "merge",
    "read_adapter",
    "round_weights",
    "to_release",
    "trained_parameters",
    "unfreeze",
    "write_model",
]
