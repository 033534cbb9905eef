"""Lets the engines of config/accelerate/ that are meant for GPUs run on CPUs, with this folder on PYTHONPATH.

DeepSpeed does so by itself (DS_ACCELERATOR=cpu), but transformers refuses bfloat16 to whatever is neither a GPU nor
called a CPU, and accelerate has no FSDP on CPUs, though torch does.
"""

import os

import torch
from accelerate.state import DistributedType, PartialState
from transformers import training_args

training_args.is_torch_bf16_gpu_available = lambda: True

if os.environ.get("ACCELERATE_USE_FSDP") == "true":
    PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
    PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
