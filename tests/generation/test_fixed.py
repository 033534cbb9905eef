"""Steps of fixed shapes are the steps of a context that grows, and one that a GPU records asks it for nothing."""

import pytest
import torch
from helpers import MODEL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safeeraser.generation.context import SPARE
from safeeraser.generation.fixed import WIDTH, FixedSteps, can_be_fixed
from safeeraser.model.load import load_model

from .test_context import read


@torch.no_grad()
def test_fixed_steps_are_those_of_a_growing_context(vlm):
    """Through a row that is replaced, memory that is used again from its beginning, more memory, and fewer rows."""
    torch.manual_seed(0)
    long, short, other = (torch.randint(5, 400, (length,)).tolist() for length in (WIDTH - SPARE - 9, 40, 7))
    fixed, grown, steps, laid_out = read(vlm.model, long, short), read(vlm.model, long, short), FixedSteps(), []

    def go_on(count):
        for _ in range(count):
            tokens = torch.randint(5, 400, (len(fixed.mask),))
            steps.read(fixed, tokens)
            grown.read(tokens[:, None])
            assert torch.allclose(fixed.logits, grown.logits, atol=2e-5) and torch.equal(fixed.mask, grown.mask)
            if not laid_out or laid_out[-1] != (steps.held.data_ptr(), *steps.held.shape):
                laid_out.append((steps.held.data_ptr(), *steps.held.shape))

    go_on(20)
    for context in (fixed, grown):
        context.put([0], read(vlm.model, other))
    go_on(25)  # beyond the places that there are, of which those of the first row are free again
    assert len(laid_out) == 1
    go_on(55)
    assert [places for _, _, places in laid_out] == [WIDTH, 2 * WIDTH]
    fixed, grown = fixed.select([0]), grown.select([0])
    go_on(2)
    assert laid_out[-1][1:] == (1, WIDTH)


class Host(TorchDispatchMode):
    """Refuses to touch a tensor in the CPU's memory."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        assert all(each.is_meta for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor))
        return result


@torch.no_grad()
def asks_for_nothing(model):
    """Let a model take a fixed step on the device `meta`, whose numbers nobody can ask for, as while it is recorded."""
    context = read(model, [5, 6, 7], [8, 9])
    model.to("meta")
    for layer in context.cache.layers:
        layer.hold(layer.used.to("meta"))
    context.mask, context.offsets = context.mask.to("meta"), context.offsets.to("meta")
    steps, tokens = FixedSteps(), torch.zeros(2, dtype=torch.long, device="meta")
    steps.read(context, tokens)
    with Host():
        steps.read(context, tokens)
    return context, tokens


def test_a_step_that_is_recorded_asks_the_gpu_for_nothing():
    context, tokens = asks_for_nothing(load_model(str(MODEL), torch.float32).eval())
    with pytest.raises(RuntimeError, match="meta tensors"):  # a context that grows asks whether it has gaps
        context.read(tokens[:, None])


def test_a_model_whose_positions_depend_on_the_longest_row_has_no_fixed_steps():
    model = load_model(str(MODEL), torch.float32).eval()
    assert can_be_fixed(model)
    model.config.text_config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not can_be_fixed(model)
