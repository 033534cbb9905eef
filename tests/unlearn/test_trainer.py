"""The trainer: a micro-step's loss by hand, the reference, and which parts of the model run."""

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from helpers import MODEL
from torch.nn import functional as F

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.model.load import load_model
from safeeraser.model.lora import adapter_parameters
from safeeraser.model.states import language_layers
from safeeraser.unlearn.objective.losses import control_vector

from .built import Gradients, built

ONE = {"gradient_accumulation_steps": 1}
FIRST = {f"forget_loss.terms.{name}.layer": 0 for name in ("forget", "retain")}


@torch.no_grad()
def looked_at(model, prepares, rows):
    """For an item's rows, by view: logits, the untouched model's logits, the first layer's states, and labels."""
    inputs = prepares.join([each.row for each in rows], side="right")
    output, found = model(**inputs, output_hidden_states=True), {}
    with model.disable_adapter():
        reference = model(**inputs).logits
    for n, each in enumerate(rows):
        labels = torch.full(inputs["input_ids"].shape[1:], IGNORE)
        labels[: len(each.row.labels)] = torch.tensor(each.row.labels)
        found[each.view] = (output.logits[n], reference[n], output.hidden_states[1][n], labels)
    return found


def pooled(*views):
    """The mean cross-entropy over the answer tokens of all views. Position t predicts token t + 1."""
    losses = [F.cross_entropy(view[0][:-1], view[-1][1:], ignore_index=IGNORE, reduction="sum") for view in views]
    return sum(losses) / sum((view[-1] != IGNORE).sum() for view in views)


def kl(view, everywhere):
    logits, reference, _, labels = view
    places = torch.arange(len(labels)) if everywhere else (labels[1:] != IGNORE).nonzero()[:, 0]
    p, q = reference[places].log_softmax(-1), logits[places].log_softmax(-1)
    return (p.exp() * (p - q)).sum() / len(places)


def rmu(view):
    """RMU's loss, from the states at the answer's own tokens, not at the positions that predict the tokens."""
    control = control_vector(64, 233, coefficient=20.0)
    return (view[2][view[-1] != IGNORE] - control).square().mean()


@pytest.mark.parametrize(
    ("method", "keys", "by_hand"),
    [
        ("popd", {}, lambda v: pooled(v["refusal"], v["retain"]) + pooled(v["decoupled"])),
        # The release pads an item's rows to the longest row, and its KL also reads the padding.
        ("klpd", {}, lambda v: -pooled(v["forget"]) + kl(v["retain"], True) + pooled(v["decoupled"])),
        ("kl", {"recipe.kl_positions": "answer"}, lambda v: -pooled(v["forget"]) + kl(v["retain"], False)),
        ("rmu", FIRST | {"recipe.weights.retain": 0, "pd": 2}, lambda v: rmu(v["forget"]) + 2 * pooled(v["decoupled"])),
    ],
)
def test_a_micro_steps_loss_is_the_mean_of_what_its_items_give_by_hand(tmp_path, method, keys, by_hand):
    trainer = built(tmp_path, method, keys)
    items = [trainer.train_dataset[number] for number in (0, 4, 9)]
    with torch.no_grad():
        found = trainer.compute_loss(trainer.model.train(), trainer.data_collator(items))
    expected = [by_hand(looked_at(trainer.model, trainer.train_dataset.preprocessor, item)) for item in items]
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=2e-5)


def test_training_moves_the_adapter_alone_and_switched_off_the_model_is_the_untouched_one(tmp_path):
    """So KL's reference needs no second copy, and is exact to the bit, projector included."""
    trainer = built(tmp_path, "klpd", ONE | {"lr": 0.01}, steps=2)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    projector = {name for name in moved if ".multi_modal_projector.modules_to_save.default.linear_" in name}
    assert len(projector) == 4 and len(moved - projector) == 2 * 7 * 2
    assert all(".language_model." in name and ".lora_" in name for name in moved - projector)
    inputs = trainer.data_collator([trainer.train_dataset[0]])["batch"].inputs
    with torch.no_grad():
        untouched = load_model(str(MODEL), torch.float32)(**inputs).logits
        with trainer.model.eval().disable_adapter():
            assert torch.equal(trainer.model(**inputs).logits, untouched)
        assert (trainer.model(**inputs).logits - untouched).abs().max() > 0.01


def test_only_what_a_term_looks_at_is_run_and_trained(tmp_path):
    """The vocabulary head runs only where logits are read. RMU runs the layers up to the one whose states it reads."""
    trainer, seen = built(tmp_path, "gd"), []
    trainer.model.get_output_embeddings().register_forward_hook(lambda *given: seen.append(given[2].shape[:-1]))
    trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    answers = sum(label != IGNORE for row in trainer.train_dataset[0] for label in row.row.labels)
    assert [shape.numel() for shape in seen] == [answers]
    trainer, ran = built(tmp_path / "rmu", "rmu", FIRST, callbacks=[kept := Gradients()]), []
    for number, layer in enumerate(language_layers(trainer.model, trainer.objective.family)):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    trainer.train()
    assert ran == [0, 0] * 2  # the model's states, and the reference's
    assert len(kept.steps[0]) == 7 * 2 + 4 and not any(".layers.1." in name for name in kept.steps[0])


def test_a_micro_step_goes_to_the_device_when_it_is_its_turn(tmp_path, monkeypatch):
    """Trainer fetches an optimizer step's micro-steps at once. Pictures wait in CPU memory, in the model's dtype."""
    trainer = built(tmp_path, "popd", {"dtype": "bfloat16"})
    for state in (AcceleratorState, PartialState):
        monkeypatch.setitem(state._shared_state, "device", torch.device("meta"))
    monkeypatch.setattr(type(trainer.args), "device", torch.device("meta"))
    (_, inputs), _ = trainer.get_batch_samples(iter(trainer.get_train_dataloader()), 2, trainer.args.device)
    its_turn = trainer._prepare_inputs(inputs | {"moved": inputs["batch"]})
    for place, batch in (("cpu", inputs["batch"]), ("meta", its_turn["batch"])):
        pictures, read = batch.inputs["pixel_values"], batch.reads[None].places
        assert (pictures.device.type, read.device.type, pictures.dtype) == (place, place, torch.bfloat16)
    assert "moved" not in its_turn, "which is read before, at weights that are moved"


def test_the_reference_is_the_model_before_anything_is_trained(tmp_path):
    trainer = built(tmp_path, "kl", ONE, noise=0)
    assert trainer.compute_loss(trainer.model, trainer.data_collator([trainer.train_dataset[0]]))
    assert trainer.losses.means["kl"] == 0
    trained = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert trained == adapter_parameters(trainer.model).keys(), "which PEFT switches off for the reference"
