"""The vanilla model with another's states."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from safeeraser.audit.inside.depth import depth, falls, score
from safeeraser.audit.inside.likelihood import likelihood
from safeeraser.audit.inside.reading import batches

from .knowing import knowing, some_pairs, untouched


def test_a_models_own_states_change_nothing():
    pairs = some_pairs()
    found = falls(knowing(), pairs, depth(knowing(), pairs, 3), 8)
    assert list(found) == ["depth", "depth_0", "depth_1"]
    for values in found.values():
        assert values.keys() == {pair.key for pair in pairs} and max(map(abs, values.values())) < 1e-6


@torch.no_grad()
def test_at_the_last_layer_only_the_head_is_the_vanilla_models():
    pairs, vanilla = some_pairs(), knowing()
    states = depth(untouched(), pairs, 8)
    found = falls(vanilla, pairs, states, 8)
    known = likelihood(vanilla, pairs, 8)["nll_true"]
    head = lambda hidden: vanilla.model.lm_head(vanilla.model.get_decoder().norm(hidden))  # noqa: E731
    for pair in pairs:
        (batch,) = batches(vanilla, [(pair, pair.true)], 1)
        assert states[pair.key].shape == (2, len(batch.targets), 64)
        wanted = cross_entropy(head(states[pair.key][-1]), batch.targets).item() - known[pair.key]
        assert found["depth_1"][pair.key] == pytest.approx(wanted, abs=1e-5)
        both = found["depth_0"][pair.key] + found["depth_1"][pair.key]
        assert found["depth"][pair.key] == pytest.approx(both / 2)
        assert found["depth_1"][pair.key] > 1  # what the states do not carry no head tells


def test_layers_below_are_passed_over_without_a_change():
    """Against a pass over the whole model, its first layer's output replaced."""
    pair, vanilla = some_pairs()[0], knowing()
    states = depth(untouched(), [pair], 1)
    (batch,) = batches(vanilla, [(pair, pair.true)], 1)

    def replaced(_, __, output):
        return output.flatten(0, 1).index_copy(0, batch.places(back=1), states[pair.key][0])[None]

    with torch.no_grad():
        hook = vanilla.model.get_decoder().layers[0].register_forward_hook(replaced)
        try:
            patched = cross_entropy(vanilla.logits(batch.inputs, batch.places(back=1)), batch.targets).item()
        finally:
            hook.remove()
    (known,) = likelihood(vanilla, [pair], 1)["nll_true"].values()
    assert falls(vanilla, [pair], states, 1)["depth_0"][pair.key] == pytest.approx(patched - known, abs=1e-5)


def test_batches_do_not_matter():
    pairs = some_pairs()
    one, eight = (falls(knowing(), pairs, depth(untouched(), pairs, size), size) for size in (1, 8))
    for name, values in one.items():
        assert eight[name] == pytest.approx(values, abs=1e-5), name


def test_the_score_weighs_layers_by_what_the_ignorant_model_lacks():
    ignorant = {"depth": {"a": 0, "b": 0}, "depth_0": {"a": 3.0, "b": 0.01}, "depth_1": {"a": 1.0, "b": 0.05}}
    ignorant["depth_2"] = {"a": 0.04, "b": -1.0}
    own = {"depth_0": {"a": 1.5, "b": 5.0}, "depth_1": {"a": 7.0, "b": 5.0}, "depth_2": {"a": 9.0, "b": 5.0}}
    # Of 3 nats 1.5 are lost, of 1 all; the third layer carries nothing.
    assert score(own, ignorant) == {"a": (1.5 + 1) / 4, "b": None}
    assert score(ignorant, ignorant) == {"a": 1, "b": None}
    assert score({name: dict.fromkeys("ab", -0.5) for name in own}, ignorant) == {"a": 0, "b": None}
