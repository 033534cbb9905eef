"""The states of one layer of each family's language model, and what of the model is then not run."""

import pytest
import torch

from safeeraser.model import begun_at, language_layers, logits, logits_and_states


def seen(model):
    """A list that takes the name of each linear layer of the language model and the head, as it is run."""
    named, names = dict(model.named_modules()), []
    head = model.get_output_embeddings()
    for name, module in named.items():
        if isinstance(module, torch.nn.Linear) and (".layers." in name or module is head):
            module.register_forward_hook(lambda *given, n=name: names.append((n, given[-1].numel())))
    return names


@torch.no_grad()
def test_states_are_the_layers_own_and_nothing_above_is_run(family):
    model = family.load()
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:2]])
    length = batch["input_ids"].shape[1]
    places = torch.tensor([length - 3, 2 * length - 4])
    layers, kept = language_layers(model, family.preprocessor.family), {}
    assert len(layers) == family.config["text_config"]["num_hidden_layers"] > 1
    hooks = [
        layer.register_forward_hook(lambda *given, n=number: kept.update({n: given[-1].flatten(0, 1)[places]}))
        for number, layer in enumerate(layers)
    ]
    whole = logits(model, batch, places)
    for hook in hooks:
        hook.remove()
    # Beside logits all runs as ever.
    both = dict.fromkeys(kept, places)
    found, states = logits_and_states(model, batch, places, both, family.preprocessor.family)
    assert torch.equal(found, whole)
    assert states.keys() == kept.keys() and all(torch.equal(states[number], kept[number]) for number in kept)
    # Alone the first layer is all that runs of the language model.
    ran = seen(model)
    found, states = logits_and_states(model, batch, places[:0], {0: places}, family.preprocessor.family)
    assert found.shape == (0, whole.shape[1]) and torch.equal(states[0], kept[0])
    run = {
        name for name, size in ran if size and name.startswith(f"model.{family.preprocessor.family.language_model}.")
    }
    assert run and all(".layers.0." in name for name in run)
    assert [size for name, size in ran if ".layers." not in name] == [0]  # the head
    # And the layers are what they were.
    assert torch.equal(logits(model, batch, places), whole)


@torch.no_grad()
def test_a_pass_begun_at_a_layer_goes_on_from_the_states_it_is_given(family):
    """From the layer's own states it is the rest of the whole pass, and nothing of the layers below is run."""
    model, told = family.load(), family.preprocessor.family
    batch = family.preprocessor.join([family.encode(row) for row in family.rows[:2]])
    shape = batch["input_ids"].shape
    every, places = torch.arange(batch["input_ids"].numel()), torch.tensor([shape[1] - 3, 2 * shape[1] - 4])
    last = len(language_layers(model, told)) - 1
    whole, states = logits_and_states(model, batch, places, {0: every, last: every}, told)
    ran = seen(model)
    for number, own in states.items():
        ran.clear()
        with begun_at(model, told, number, own.unflatten(0, shape)):
            assert torch.equal(logits(model, batch, places), whole)
        below = tuple(f"{told.language_model}.layers.{n}." for n in range(number + 1))
        assert ran and not any(each in name for name, _ in ran for each in below)
        with begun_at(model, told, number, torch.zeros_like(own).unflatten(0, shape)):
            assert not torch.equal(logits(model, batch, places), whole)
    assert torch.equal(logits(model, batch, places), whole)


def test_layers_are_passed_over_for_one_pass_even_where_it_fails(family):
    model = family.load()
    with pytest.raises((TypeError, ValueError)):
        logits_and_states(
            model, {"no": 1}, torch.tensor([], dtype=torch.long), {0: torch.tensor([1])}, family.preprocessor.family
        )
    assert all("forward" not in layer.__dict__ for layer in language_layers(model, family.preprocessor.family))
