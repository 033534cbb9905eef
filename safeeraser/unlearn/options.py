"""What `trainer:` passes on to transformers' TrainingArguments, and what it may not, since this project says it."""

from collections.abc import Collection
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from transformers import TrainingArguments

from safeeraser.errors import BadInput, nearest

ENGINE = "the engine's file (ACCELERATE_CONFIG)"
# Where each is said instead; those of the same name as a key of this project need no entry.
SAID_BY = {
    "output_dir": "save_dir",
    "num_train_epochs": "num_epochs",
    "max_steps": "max_train_steps",
    "warmup_steps": "warmup_ratio",
    "per_device_train_batch_size": "batch_size",
    "auto_find_batch_size": "batch_size",
    "learning_rate": "lr",
    "bf16": "dtype",
    "fp16": "dtype",
    "activation_checkpointing": "gradient_checkpointing",
    "dataloader_num_workers": "workers",
    "data_seed": "seed",
    "full_determinism": "deterministic",
    "train_sampling_strategy": "recipe.shuffle",
    "save_strategy": "save_steps",
    "eval_strategy": "probe_every",
    "hub_token": "HF_TOKEN in the environment",
    "hub_private_repo": "hub_private",
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config", "parallelism_config", "ddp_backend", "use_cpu"), ENGINE),
}
# On these the plan, the losses, the log or the checkpoints rely, or nothing reads them: there is no evaluation set.
_FIXED = """
accelerator_config activation_checkpointing_kwargs average_tokens_across_devices batch_eval_metrics bf16_full_eval
dataloader_drop_last do_eval do_predict do_train eval_accumulation_steps eval_delay eval_do_concat_batches
eval_on_start eval_steps eval_use_gather_object fp16_full_eval gradient_checkpointing_kwargs greater_is_better
hub_always_push hub_revision hub_strategy ignore_data_skip include_for_metrics label_names label_smoothing_factor
length_column_name liger_kernel_config load_best_model_at_end local_rank logging_first_step logging_nan_inf_filter
logging_steps logging_strategy metric_for_best_model neftune_noise_alpha per_device_eval_batch_size
prediction_loss_only remove_unused_columns enable_jit_checkpoint restore_callback_states_from_checkpoint
save_only_model use_cache use_liger_kernel
"""
FIXED = frozenset(_FIXED.split())


def check_options(options: dict[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """`options` in their fields' types; `keys` are this project's own.

    Raises:
        BadInput: one is no field of TrainingArguments, not to be set, or of another type. No value is repeated: it
            could be a credential.
    """
    types = get_type_hints(TrainingArguments)
    checked = {}
    for name, value in options.items():
        if where := name if name in keys else SAID_BY.get(name):
            raise BadInput(f"config: trainer.{name}: set by this project; use {where}")
        if name in FIXED:
            raise BadInput(f"config: trainer.{name}: set by this project, which relies on it")
        if name not in types:
            known = types.keys() - SAID_BY - FIXED - set(keys)
            raise BadInput(f"config: no key 'trainer.{name}'; {nearest(name, known)}")
        try:
            checked[name] = TypeAdapter(types[name]).validate_python(value)
        except ValidationError as error:
            raise BadInput(f"config: trainer.{name}: {error.errors()[0]['msg']}") from None
    return checked
