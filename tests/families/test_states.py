"""The states of one layer of each family's language model, and what of the model is then not run."""

import pytest
import torch

from safeeraser.model import language_layers, logits, logits_and_states


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


def test_layers_are_passed_over_for_one_pass_even_where_it_fails(family):
    model = family.load()
    with pytest.raises((TypeError, ValueError)):
        logits_and_states(
            model, {"no": 1}, torch.tensor([], dtype=torch.long), {0: torch.tensor([1])}, family.preprocessor.family
        )
    assert all("forward" not in layer.__dict__ for layer in language_layers(model, family.preprocessor.family))
