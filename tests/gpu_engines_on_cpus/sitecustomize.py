"""Lets the GPU engines of config/accelerate/ run on CPUs. Python runs this file if its folder is on PYTHONPATH.

DeepSpeed supports CPUs by itself (DS_ACCELERATOR=cpu). But transformers refuses bfloat16 without a GPU unless `use_cpu`
is set, and accelerate has no FSDP on CPUs, although torch has it.
"""

import os

import torch
from accelerate.state import DistributedType, PartialState
from transformers import training_args

training_args.is_torch_bf16_gpu_available = lambda: True

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
