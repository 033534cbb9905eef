"""A dispatch mode for tensors without contents: it still computes everything that depends on real tensors alone."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Computed(TorchDispatchMode):
    """Really computes each operation whose tensors all have contents. A model may need the result, such as the number
    of patches of a picture."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
        without = any(isinstance(each, FakeTensor) for each in tree_leaves((args, kwargs)))
        with nullcontext() if without else unset_fake_temporarily():
            return func(*args, **kwargs)


def _places(index: Tensor | None) -> Sequence[Tensor | None]:
    """A mask with contents as the indices of its True entries, because a shape depends on their number."""
    if index is None or index.dtype != torch.bool or isinstance(index, FakeTensor):
        return [index]
    with unset_fake_temporarily():
        return index.nonzero().unbind(1)
