"""Keeps what the projector is moved by, where it is trained in terms of its own: the adapter has the sum alone."""

from typing import Any

import torch
from torch import Tensor, nn

from safeeraser.model.projector import moved_by
from safeeraser.unlearn.hooks.hook import Hook


class MovedProjector(Hook):
    """Has nothing to keep where the engine keeps the parameters themselves, as DeepSpeed and FSDP do."""

    file = "sines.safetensors"

    def state_dict(self) -> dict[str, Tensor]:
        return {name: each.detach().cpu() for name, each in self._moved_by().items()}

    @torch.no_grad()
    def load_state_dict(self, kept: dict[str, Any] | None) -> None:
        for name, parameter in self._moved_by().items():
            there = (kept or {}).get(name)
            if there is None or there.shape != parameter.shape:
                raise ValueError(f"not what the projector was moved by (nothing for {name})")
            parameter.copy_(there)

    def _moved_by(self) -> dict[str, nn.Parameter]:
        kept_elsewhere = self.trainer.is_deepspeed_enabled or self.trainer.is_fsdp_enabled
        return {} if kept_elsewhere else moved_by(self.trainer.model)
