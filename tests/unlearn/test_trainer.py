"""The trainer itself: gradients that do not depend on how items are grouped, the reference, and what is run at all."""

import bitsandbytes
import pytest
import torch
from helpers import FURTHER, METHODS, MODEL, RECORDED, plan_dataset, read_lines, write_json
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import set_seed

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.model import from_release, language_layers, load_model, load_preprocessor
from safeeraser.unlearn import run
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.reference import check_names, check_reference, row_logits
from safeeraser.unlearn.vector import control_vector

from .built import Gradients
from .given import settings

# Of two layers the last, since what lies above has no gradient; and weights that leave one to losses which are small.
MORE = {
    "rmu": ("forget_loss.terms.forget.layer=1",),
    "satimp": ("forget_loss.terms.forget.beta1=0.2",),
    "simnpo": ("forget_loss.terms.forget.beta=0.3", "forget_loss.terms.forget.delta=7"),
}


def built_model(words, engine=None, **keys):
    """The model with its adapter as a run starts with it."""
    read = settings(*words.split(), *(f"{key}={value}" for key, value in keys.items()))
    arguments = run.training_arguments(read, Engine(), Schedule(1, 0))
    return run.load_model(read, engine or Engine(), arguments, plan_dataset(read))


def trainer(folder, *words, model=None):
    """A trainer on the recorded data with its gradients kept, its adapter moved so that no gradient is zero."""
    read = settings(
        f"save_dir={folder}", "max_grad_norm=0", "max_train_steps=1", "gradient_accumulation_steps=2", *words
    )
    arguments = run.training_arguments(read, Engine(), Schedule(read.max_train_steps, 0))
    if model is None:
        set_seed(read.seed)
        model = run.load_model(read, Engine(), arguments, plan_dataset(read))
        generator = torch.Generator().manual_seed(5)
        for parameter in filter(lambda each: each.requires_grad, model.parameters()):
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    built = run.build_trainer(read, arguments, model, None, plan_dataset(read))
    built.add_callback(kept := Gradients())
    built.kept = kept.steps
    return built


def close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        assert expected[name].norm() > 0 and (found[name] - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The model with a moved adapter, for trainers that take no optimizer step."""
    return trainer(tmp_path_factory.mktemp("model")).model


@torch.no_grad()
def looked_at(model, prepares, rows):
    """Of an item's rows, by view: the logits, the untouched model's, the first layer's states, and the labels."""
    inputs, names = prepares.join([each.row for each in rows], side="right"), [each.view for each in rows]
    output = model(**inputs, output_hidden_states=True)
    with model.disable_adapter():
        reference = model(**inputs).logits
    labels = [
        torch.tensor(each.row.labels + [IGNORE] * (inputs["input_ids"].shape[1] - len(each.row.labels)))
        for each in rows
    ]
    return {
        name: (output.logits[n], reference[n], output.hidden_states[1][n], labels[n]) for n, name in enumerate(names)
    }


def nll(logits, labels):
    """Position t predicts token t + 1."""
    return F.cross_entropy(logits[:-1], labels[1:], ignore_index=IGNORE, reduction="sum")


def pooled(*views):
    return sum(nll(logits, labels) for logits, *_, labels in views) / sum((view[-1] != IGNORE).sum() for view in views)


def kl(view, everywhere):
    logits, reference, _, labels = view
    places = torch.arange(len(labels)) if everywhere else (labels[1:] != IGNORE).nonzero()[:, 0]
    p, q = reference[places].log_softmax(-1), logits[places].log_softmax(-1)
    return (p.exp() * (p - q)).sum() / len(places)


def npo(view):
    return -20 * F.logsigmoid(0.1 * (nll(view[0], view[-1]) - nll(view[1], view[-1])))


def rmu(view):
    """The states at the answer itself, not at the places before it, which predict it."""
    control = control_vector(64, 233, coefficient=20.0)
    return (view[2][view[-1] != IGNORE] - control).square().mean()


@pytest.mark.parametrize(
    ("words", "by_hand"),
    [
        ("popd", lambda v: pooled(v["refusal"], v["retain"]) + pooled(v["decoupled"])),
        # The release pads an item's rows to the longest of them, and its KL reads that padding too.
        ("klpd", lambda v: -pooled(v["forget"]) + kl(v["retain"], True) + pooled(v["decoupled"])),
        ("kl recipe.kl_positions=answer", lambda v: -pooled(v["forget"]) + kl(v["retain"], False)),
        ("npo", lambda v: npo(v["forget"]) + pooled(v["retain"])),
        ("rmu ~forget_loss.terms.retain pd=2 forget_loss.terms.forget.layer=0",
         lambda v: rmu(v["forget"]) + 2 * pooled(v["decoupled"])),
    ],
)  # fmt: skip
def test_a_micro_steps_loss_is_the_mean_of_what_its_items_give_by_hand(tmp_path, model, words, by_hand):
    built = trainer(tmp_path, f"forget_loss={words.split()[0]}", *words.split()[1:], "max_train_steps=5", model=model)
    model.train()  # without dropout; only the log and the callbacks know the difference
    items = [built.train_dataset[number] for number in (0, 4, 9)]
    with torch.no_grad():
        found = built.compute_loss(model, built.data_collator(items))
    expected = [by_hand(looked_at(model, built.train_dataset.preprocessor, item)) for item in items]
    assert found.item() == pytest.approx(torch.stack(expected).mean().item(), rel=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, *FURTHER, "pdu"])
def test_eight_items_at_once_have_the_mean_gradient_of_each_alone(tmp_path, model, method):
    """Neither the sum, nor weighted by the lengths of their answers."""
    built = trainer(tmp_path, f"forget_loss={method}", *MORE.get(method, ()), "max_train_steps=4", model=model)
    items = [built.train_dataset[number] for number in range(8)]
    built.accelerator.gradient_state._set_sync_gradients(False)  # as before an optimizer step's last

    def gradient(*groups):
        model.zero_grad()
        for group in groups:
            (built.compute_loss(model, built.data_collator(group)) / len(groups)).backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}

    model.train()
    together = gradient(items)
    assert len(together) == 32
    close(gradient(*([item] for item in items)), together)


def test_an_optimizer_steps_gradient_is_the_mean_of_its_micro_steps(tmp_path):
    steps = [{"forget": 0, "retain": 28}, {"forget": 1, "retain": 44}]
    found = []
    for number, (some, shape) in enumerate(((steps[:1], 1), (steps[1:], 1), (steps, 2))):
        plan = write_json(tmp_path / f"{number}.json", {"steps": some})
        words = ("forget_loss=gd", f"plan={plan}", f"gradient_accumulation_steps={shape}")
        (built := trainer(tmp_path / str(number), *words)).train()
        found += built.kept
    first, second, both = found
    close(both, {name: (first[name] + second[name]) / 2 for name in both})
    (row,) = read_lines(tmp_path / "2" / "train_log.jsonl")
    alone = [read_lines(tmp_path / name / "train_log.jsonl")[0] for name in "01"]
    assert row["micro_losses"] == pytest.approx([each["loss"] for each in alone], rel=1e-5)
    for name, value in row["terms"].items():
        assert value == pytest.approx(sum(each["terms"][name] for each in alone) / 2, rel=1e-5)


def test_training_moves_the_adapter_alone_and_switched_off_the_model_is_the_untouched_one(tmp_path):
    """The reference of KL: no second copy, yet exact to the bit, projector included."""
    built = trainer(tmp_path, "forget_loss=klpd", "max_train_steps=2", "lr=0.01", "gradient_accumulation_steps=1")
    before = {name: value.clone() for name, value in built.model.named_parameters()}
    built.train()
    moved = {name for name, value in built.model.named_parameters() if not torch.equal(value, before[name])}
    assert len(moved) == 2 * 7 * 2 + 4
    assert all(".language_model." in name for name in moved if ".lora_" in name)
    assert sum(".multi_modal_projector.modules_to_save.default.linear_" in name for name in moved) == 4
    inputs = built.data_collator([built.train_dataset[0]])["inputs"]
    with torch.no_grad():
        untouched = load_model(str(MODEL), torch.float32)(**inputs).logits
        with built.model.eval().disable_adapter():
            assert torch.equal(built.model(**inputs).logits, untouched)
        assert (built.model(**inputs).logits - untouched).abs().max() > 0.01
    for row in read_lines(tmp_path / "train_log.jsonl"):
        terms = row["terms"]
        assert row["loss"] == pytest.approx(-terms["forget"] + terms["kl"] + terms["decoupled"], rel=1e-5)


def test_only_what_a_term_looks_at_is_run_and_trained(tmp_path, model):
    """The vocabulary head where logits are read; of RMU the layers up to the one whose states are."""
    built, seen = trainer(tmp_path, "forget_loss=gd", model=model), []
    hook = built.model.get_output_embeddings().register_forward_hook(lambda *given: seen.append(given[2].shape[:-1]))
    built.compute_loss(model, built.data_collator([built.train_dataset[0]]))
    hook.remove()
    answers = sum(label != -100 for row in built.train_dataset[0] for label in row.row.labels)
    assert [shape.numel() for shape in seen] == [answers]
    words = ("forget_loss=rmu", "forget_loss.terms.forget.layer=0", "gradient_accumulation_steps=2")
    built, ran = trainer(tmp_path / "rmu", *words), []
    for number, layer in enumerate(language_layers(built.model, built.family)):
        layer.mlp.register_forward_hook(lambda *_, number=number: ran.append(number))
    built.train()
    assert ran == [0, 0] * 2  # the model's states, and the reference's
    assert len(built.kept[0]) == 7 * 2 + 4 and not any(".layers.1." in name for name in built.kept[0])
    # With prompt decouple the same layer is read, and all above it for the answers on benign pictures.
    (built := trainer(tmp_path / "pd", *words, "pd=1")).train()
    assert len(built.kept[0]) == 2 * 7 * 2 + 4


def test_weight_decay_spares_biases(tmp_path, model):
    groups = trainer(tmp_path, "forget_loss=ga", model=model).create_optimizer().param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    assert {name for name, each in trained.items() if id(each) not in decayed} == {
        name for name in trained if name.endswith("bias")
    }


def test_what_training_starts_from_and_in_which_dtype():
    """The adapter given; DeepSpeed keeps masters of its own, and is given the dtype that it computes in."""
    found = dict(built_model("seed=1", init_adapter=RECORDED / "initial_adapter.safetensors").named_parameters())
    found = {name.replace(".default", "").replace(".modules_to_save", ""): value for name, value in found.items()}
    for name, value in from_release(load_file(RECORDED / "initial_adapter.safetensors")).items():
        assert torch.equal(found[name], value), name
    for engine, dtype in (("single", torch.float32), ("fsdp", torch.float32), ("zero3", torch.bfloat16)):
        model = built_model("forget_loss=kl dtype=bfloat16", Engine(engine))
        assert {each.dtype for each in model.parameters() if each.requires_grad} == {dtype}


def test_a_reference_that_training_would_change_is_found_out():
    """By names where no process holds the model whole, and elsewhere by an answer."""
    model = built_model("forget_loss=kl")
    read = settings("forget_loss=kl")
    row = load_preprocessor(str(MODEL)).join([plan_dataset(read)[0][0].row])
    with torch.no_grad(), model.disable_adapter():
        expected = row_logits(model, row)
    check_names(model)
    check_reference(model, row, expected)
    wrapper = model.get_base_model().model.multi_modal_projector
    mine, original = (list(each.parameters()) for each in (wrapper.modules_to_save, wrapper.original_module))
    for one, other in zip(mine, original, strict=True):
        one.data = other.data  # a copy that is none
    with pytest.raises(AssertionError, match="the model is not the untouched one: KL has no reference"):
        check_reference(model, row, expected)
    original[0].requires_grad_(True)
    with pytest.raises(AssertionError, match=r"linear_1.weight would be trained.*KL has no reference"):
        check_names(model)


@pytest.mark.slow
def test_what_no_output_reaches_is_never_trained(tmp_path):
    """Neither from the start nor after the reference, at whose end PEFT would have it trained again."""
    built = trainer(tmp_path, "forget_loss=kl", "tune_vision_tower=true", "gradient_accumulation_steps=1")
    built.train()
    built.save_model()
    tower = [name for name in built.kept[0] if ".vision_tower." in name]
    assert any(".layers.1." in name for name in tower)  # the last but one of three, which LLaVA looks at
    assert not any(".layers.2." in name or ".post_layernorm." in name for name in tower)
    # Saved with the adapter all the same, as it goes with the rest of the tower.
    assert any(".layers.2." in name for name in load_file(tmp_path / "adapter_model.safetensors"))


@pytest.mark.slow
@pytest.mark.parametrize("words", ["forget_loss=klpd", "forget_loss=rmu forget_loss.terms.forget.layer=0"])
def test_checkpointed_activations_change_nothing(tmp_path, words):
    plain, again = (
        trainer(tmp_path / given, *words.split(), f"gradient_checkpointing={given}") for given in ("false", "true")
    )
    for built in (plain, again):
        built.train()
    assert read_lines(tmp_path / "false" / "train_log.jsonl") == read_lines(tmp_path / "true" / "train_log.jsonl")
    assert all(torch.equal(value, again.kept[0][name]) for name, value in plain.kept[0].items())


@pytest.mark.slow
def test_the_frozen_language_model_in_4_bits(tmp_path):
    """Real bitsandbytes: its gradients are those of a plain model with the rounded weights, also after evaluation."""
    built = trainer(tmp_path, "forget_loss=klpd", "quantization=nf4")
    plain, packed = trainer(tmp_path, "forget_loss=klpd"), bitsandbytes.nn.Linear4bit
    packed = {name: module for name, module in built.model.named_modules() if type(module) is packed}
    assert len(packed) == 7 * 2 and all(".language_model.layers." in name for name in packed)
    for name, module in packed.items():
        rounded = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        weight = plain.model.get_submodule(name).weight
        assert 0 < (weight - rounded).abs().max() < 0.2 * weight.abs().max()
        weight.data.copy_(rounded)
    batch, gradients = built.data_collator([built.train_dataset[0]]), []
    with torch.no_grad():
        built.model.eval()(**batch["inputs"])
    for which in (built, plain):
        which.model.train()
        which.compute_loss(which.model, batch).backward()
        gradients.append({n: p.grad for n, p in which.model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * 7 * 2 + 4
    for name, expected in gradients[1].items():
        assert torch.allclose(gradients[0][name], expected, rtol=1e-4, atol=1e-5 * expected.abs().max()), name
