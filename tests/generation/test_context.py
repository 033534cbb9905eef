"""A context whose rows grow and are replaced gives the same logits as reading each row alone.

Steps of fixed shapes give the same logits too. While a GPU records such a step, the CPU reads nothing from the GPU.
"""

from types import SimpleNamespace

import pytest
import torch
from helpers import MODEL
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from safeeraser.generation.context import SPARE, Context
from safeeraser.generation.fixed import WIDTH, FixedSteps, can_be_fixed
from safeeraser.model.load import load_model


def read(model, *rows):
    """A context that has read these rows."""
    context = Context(model)
    context.read([*rows])
    return context


def assert_reads(context, *rows):
    """Assert that the next tokens' logits are as if each row had been read alone."""
    wanted = torch.stack([read(context.model, row).logits[0] for row in rows])
    assert torch.allclose(context.logits, wanted, atol=1e-5)


@torch.no_grad()
def test_rows_are_replaced_while_others_go_on(vlm):
    torch.manual_seed(0)
    texts = [torch.randint(5, 400, (length,)).tolist() for length in (3, 9, 4, 20, 11)]
    context, other = read(vlm.model, *texts[:2]), read(vlm.model, *texts[2:4])
    for token in range(10, 10 + SPARE + 3):  # beyond the spare places
        context.read([[token], [token]])
        texts[0], texts[1] = [*texts[0], token], [*texts[1], token]
    assert_reads(context, *texts[:2])
    context.put([1], other.select([1]))
    assert_reads(context, texts[0], texts[3])
    both = context.join(other)
    both.read([[7], [8], [9], [10]])
    assert_reads(both, [*texts[0], 7], [*texts[3], 8], [*texts[2], 9], [*texts[3], 10])
    short = both.select([2, 2])
    assert short.mask.shape[1] == len(texts[2]) + 1, "the gap before both is gone"
    short.put([0], read(vlm.model, texts[4]))  # longer than the rows there
    short.read([[3], [4]])
    assert_reads(short, [*texts[4], 3], [*texts[2], 9, 4])


@torch.no_grad()
def test_what_overflowed_leaves_no_trace_in_the_row_that_takes_its_place(vlm):
    context = read(vlm.model, [5, 6, 7, 8], [9, 10, 11, 12])
    for layer in context.cache.layers:
        layer.both[:, 0] = float("nan")
    context.put([0], read(vlm.model, [3, 4]))
    context.read([[20], [21]])
    assert_reads(context, [3, 4, 20], [9, 10, 11, 12, 21])


@torch.no_grad()
def test_what_a_place_that_sees_nothing_becomes_reaches_no_row(vlm, monkeypatch):
    """Rows of several lengths are read together. Some kernels give NaN at a place that attends to no token."""
    attend, rows = torch.nn.functional.scaled_dot_product_attention, ([5, 6, 7, 8, 9], [10, 11])
    right, blind = read(vlm.model, *rows).logits, []

    def spoil(query, key, value, attn_mask=None, **more):
        output = attend(query, key, value, attn_mask=attn_mask, **more)
        sees = attn_mask.any(dim=-1)[..., None] if attn_mask is not None else torch.ones(1, dtype=torch.bool)
        blind.append(int((~sees).sum()))
        return output.masked_fill(~sees, float("nan"))

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spoil)
    assert torch.allclose(read(vlm.model, *rows).logits, right, atol=1e-6) and any(blind)


@torch.no_grad()
def test_the_head_is_given_whole_rows_wherever_reading_ends(vlm):
    """A CPU can take hundreds of times as long for rows with gaps between them in memory. No hook stays behind."""
    head, shown = vlm.model.get_output_embeddings(), []
    told = head.register_forward_hook(lambda _, given, out: shown.append(given[0]))
    with told:
        context = read(vlm.model, [5, 6, 7], [8, 9, 10], [11, 12])
        context.read([[13, 14], [15, 16], [17, 18]])
    assert [each.shape[:2] for each in shown] == [(3, 1)] * 2 and all(each.is_contiguous() for each in shown)
    assert not head._forward_pre_hooks


class OnGpu(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    is_cuda = True


class AsRecorded(FixedSteps):
    """Replays on a CPU what it should have recorded. As on a GPU, a replay writes to the recording's tensors, and a
    name that was bound to another tensor since then stays so."""

    def _record(self, context):
        self.logits = recorded = torch.empty_like(self.logits)

        def replay():
            bound = self.logits
            self._step(context)
            recorded.copy_(self.logits)
            self.logits = bound

        return SimpleNamespace(replay=replay)


@torch.no_grad()
@pytest.mark.parametrize("kind", [FixedSteps, AsRecorded])
def test_fixed_steps_are_those_of_a_growing_context(vlm, kind):
    """This holds when a row is replaced, memory is reused from its beginning, memory grows, and rows are dropped."""
    torch.manual_seed(0)
    long, short, other = (torch.randint(5, 400, (length,)).tolist() for length in (WIDTH - SPARE - 9, 40, 7))
    fixed, grown, steps, laid_out = read(vlm.model, long, short), read(vlm.model, long, short), kind(), []

    def go_on(count):
        for _ in range(count):
            tokens = torch.randint(5, 400, (len(fixed.mask),))
            steps.read(fixed, tokens.as_subclass(OnGpu) if kind is AsRecorded else tokens)
            grown.read(tokens[:, None])
            assert torch.allclose(fixed.logits, grown.logits, atol=2e-5) and torch.equal(fixed.mask, grown.mask)
            if not laid_out or laid_out[-1] != (steps.held.data_ptr(), *steps.held.shape):
                laid_out.append((steps.held.data_ptr(), *steps.held.shape))

    go_on(20)
    for context in (fixed, grown):
        context.put([0], read(vlm.model, other))
    go_on(25)  # beyond the end of the memory; its beginning is free since row 0 was replaced
    assert len(laid_out) == 1
    go_on(55)
    assert [places for _, _, places in laid_out] == [WIDTH, 2 * WIDTH]
    fixed, grown = fixed.select([0]), grown.select([0])
    go_on(2)
    assert laid_out[-1][1:] == (1, WIDTH)


class Host(TorchDispatchMode):
    """Fails when an operation touches a tensor in CPU memory."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        assert all(each.is_meta for each in tree_leaves((args, kwargs, result)) if isinstance(each, torch.Tensor))
        return result


@torch.no_grad()
def asks_for_nothing(model):
    """Run a fixed step on the device `meta`, whose values cannot be read, just as a GPU's cannot during a recording."""
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
    with pytest.raises(RuntimeError, match="meta tensors"):  # in a growing context, the mask is read for gaps
        context.read(tokens[:, None])


def test_a_model_whose_positions_depend_on_the_longest_row_has_no_fixed_steps():
    model = load_model(str(MODEL), torch.float32).eval()
    assert can_be_fixed(model)
    model.config.text_config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not can_be_fixed(model)
