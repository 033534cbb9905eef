"""LLaVA and its adapters: loading (`llava`), LoRA and the two stored forms (`adapters`), merged models (`merge`), which
base and which runs they come from (`fingerprint`, `lineage`), rounding (`rounding`)."""

from safeeraser.benchmark.files import adapter_file
from safeeraser.model.adapters import (
    adapter_config,
    adapter_parameters,
    attach,
    check_adapter,
    convert,
    freeze_unseen,
    from_release,
    load_adapted,
    load_adapter,
    lora_config,
    read_adapter,
    to_release,
    trained_parameters,
    unfreeze,
)
from safeeraser.model.fingerprint import fingerprint
from safeeraser.model.lineage import check_base, merged_into, parents
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
    "adapter_parameters",
    "attach",
    "base_of",
    "check_adapter",
    "check_base",
    "choose_attention",
    "choose_dtype",
    "convert",
    "fingerprint",
    "freeze_unseen",
    "from_release",
    "load_adapted",
    "load_adapter",
    "load_config",
    "load_model",
    "load_preprocessor",
    "lora_config",
    "merge",
    "merged_into",
    "parents",
    "read_adapter",
    "round_weights",
    "to_release",
    "trained_parameters",
    "unfreeze",
    "write_model",
]
