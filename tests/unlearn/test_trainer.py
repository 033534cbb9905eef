"""The trainer itself: gradients that do not depend on how items are grouped, the reference, and what is logged."""

import bitsandbytes
import pytest
import torch
from helpers import FURTHER, METHODS, MODEL, RECORDED, plan_dataset, read_lines, settings, write_json
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainingArguments, set_seed

from safeeraser import model as models
from safeeraser.model import DTYPES, from_release, language_layers, load_model
from safeeraser.unlearn import run
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule

pytestmark = pytest.mark.slow


class Gradients(TrainerCallback):
    """Keeps the gradient of each optimizer step, as it is before the step."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})


def trainer(tmp_path, *overrides, callbacks=(), steps=None):
    """A trainer on the recorded data, its adapter moved off its initial value so that no gradient is zero."""
    read = settings(f"save_dir={tmp_path}", "max_grad_norm=0", *overrides)
    dataset = plan_dataset(read)
    arguments = run.training_arguments(read, Engine(), Schedule(steps or read.max_train_steps, 0))
    set_seed(read.seed)
    model = run.load_model(read, Engine(), arguments, dataset)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    built = run.build_trainer(read, arguments, model, None, dataset)
    for callback in callbacks:
        built.add_callback(callback)
    return built


def test_a_process_that_sees_several_gpus_takes_one(tmp_path, monkeypatch):
    """Trainer would otherwise split a micro-step among them, which is not what the plan says."""
    read = settings(f"save_dir={tmp_path}")
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 4))
    arguments = run.training_arguments(read, Engine(), Schedule(1, 0))
    monkeypatch.undo()
    assert arguments.n_gpu == 1


def built_model(read, engine=None):
    """The model with its adapter as a run starts with it."""
    arguments = run.training_arguments(read, Engine(), Schedule(1, 0))
    return run.load_model(read, engine or Engine(), arguments, plan_dataset(read))


# Of two layers the last, since what lies above has no gradient; and weights that leave one to losses which are small.
MORE = {
    "rmu": ("forget_loss.terms.forget.layer=1",),
    "satimp": ("forget_loss.terms.forget.beta1=0.2",),
    "simnpo": ("forget_loss.terms.forget.beta=0.3", "forget_loss.terms.forget.delta=7"),
}


def gradient(tmp_path, method, *, batch, accumulation, plan=None):
    """The gradient of the first optimizer step, and its row of the log."""
    kept = Gradients()
    shape = (f"batch_size={batch}", f"gradient_accumulation_steps={accumulation}", "max_train_steps=1")
    given = [f"plan={write_json(tmp_path / 'given.json', {'steps': plan})}"] if plan else []
    trainer(tmp_path, f"forget_loss={method}", *MORE.get(method, ()), *shape, *given, callbacks=[kept]).train()
    (step,) = kept.steps
    return step, read_lines(tmp_path / "train_log.jsonl")[0]


@pytest.mark.parametrize("method", [*METHODS, *FURTHER, "pdu"])
def test_eight_micro_steps_of_one_item_have_the_gradient_of_one_of_eight(tmp_path, method):
    (many, log_many), (one, log_one) = (
        gradient(tmp_path / str(batch), method, batch=batch, accumulation=8 // batch) for batch in (1, 8)
    )
    assert many.keys() == one.keys() and len(many) == 32
    for name in many:
        assert many[name].norm() > 0, name
        assert (many[name] - one[name]).norm() <= 1e-5 * many[name].norm(), name
    assert len(log_many["micro_losses"]) == 8 and len(log_one["micro_losses"]) == 1
    assert log_many["terms"] == pytest.approx(log_one["terms"], rel=1e-5)
    # Terms of opposite sign nearly cancel: the loss is as exact as they are.
    size = sum(map(abs, log_one["terms"].values()))
    assert log_many["loss"] == pytest.approx(log_one["loss"], abs=1e-5 * size)


def test_a_gradient_is_the_mean_of_its_micro_steps(tmp_path):
    """Two micro-steps against each alone: neither their sum, nor weighted by the lengths of their answers."""
    steps = [{"forget": 0, "retain": 28}, {"forget": 1, "retain": 44}]
    first, second = (
        gradient(tmp_path / str(number), "gd", batch=1, accumulation=1, plan=[step])[0]
        for number, step in enumerate(steps)
    )
    both, _ = gradient(tmp_path / "both", "gd", batch=1, accumulation=2, plan=steps)
    for name, value in both.items():
        mean = (first[name] + second[name]) / 2
        assert (value - mean).norm() <= 1e-5 * mean.norm(), name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A klpd trainer after three optimizer steps at a high rate."""
    folder = tmp_path_factory.mktemp("klpd")
    shape = ("batch_size=2", "gradient_accumulation_steps=2", "max_train_steps=3", "lr=0.01", "warmup_ratio=0")
    built = trainer(folder, "forget_loss=klpd", *shape)
    before = {name: value.clone() for name, value in built.model.named_parameters()}
    built.train()
    return built, before, folder


@torch.no_grad()
def test_with_its_adapter_switched_off_the_model_is_the_untouched_one(trained):
    """The reference of KL: no second copy, yet exact to the bit, projector included."""
    model = trained[0].model.eval()
    batch = trained[0].data_collator([trained[0].train_dataset[0]])
    inputs = batch["inputs"]
    untouched = load_model(str(MODEL), DTYPES["float32"])(**inputs).logits
    with model.disable_adapter():
        assert torch.equal(model(**inputs).logits, untouched)
    assert (model(**inputs).logits - untouched).abs().max() > 0.01


def test_training_moves_the_adapter_and_the_projector_and_nothing_else(trained):
    model, before = trained[0].model, trained[1]
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert len(moved) == 2 * 7 * 2 + 4
    assert all(".language_model." in name for name in moved if ".lora_" in name)
    assert {name.split(".multi_modal_projector.")[1] for name in moved if ".lora_" not in name} == {
        f"modules_to_save.default.{layer}.{kind}" for layer in ("linear_1", "linear_2") for kind in ("weight", "bias")
    }


def test_the_log_has_every_term_by_its_name(trained):
    rows = read_lines(trained[2] / "train_log.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert set(row) == {"step", "loss", "grad_norm", "learning_rate", "terms", "micro_losses"}
        assert set(row["terms"]) == {"forget", "kl", "decoupled"}
        terms = row["terms"]
        assert row["loss"] == pytest.approx(-terms["forget"] + terms["kl"] + terms["decoupled"], rel=1e-5)
        assert row["loss"] == pytest.approx(sum(row["micro_losses"]) / 2, rel=1e-6)
        assert row["grad_norm"] > 0 and terms["kl"] > 0


def test_the_vocabulary_head_runs_only_where_a_term_looks(tmp_path):
    built = trainer(tmp_path, "forget_loss=gd", "max_train_steps=1")
    batch = built.data_collator([built.train_dataset[0]])
    seen = []
    head = built.model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: seen.append(output.numel() // output.shape[-1]))
    built.compute_loss(built.model, batch)
    assert seen == [sum(label != -100 for row in built.train_dataset[0] for label in row.row.labels)]
    assert seen[0] < batch["inputs"]["input_ids"].numel() / 2


def test_what_lies_above_the_last_layer_that_is_read_is_neither_run_nor_trained(tmp_path):
    kept = Gradients()  # which would fail where something trained has none
    words = (
        "forget_loss=rmu",
        "forget_loss.terms.forget.layer=0",
        "max_train_steps=2",
        "gradient_accumulation_steps=2",
    )
    built = trainer(tmp_path, *words, callbacks=[kept])
    layers, ran = language_layers(built.model, built.family), []
    layers[1].mlp.register_forward_hook(lambda *_: ran.append(1))
    layers[0].mlp.register_forward_hook(lambda *_: ran.append(0))
    before = {name: value.clone() for name, value in built.model.named_parameters()}
    built.train()
    assert ran == [0, 0] * 4  # the model's states, and the reference's
    moved = {name for name, value in built.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == kept.steps[0].keys() and len(moved) == 7 * 2 + 4
    assert not any(".layers.1." in name for name in moved)
    # With prompt decouple the same layer is read, and all above it for the answers on benign pictures.
    both = trainer(tmp_path / "pd", *words, "pd=1", callbacks=[kept])
    both.train()
    assert len(kept.steps[-1]) == 2 * 7 * 2 + 4


def test_states_are_the_same_where_activations_are_not_kept(tmp_path):
    found = []
    for given in ("false", "true"):
        kept, folder = Gradients(), tmp_path / given
        words = ("forget_loss=rmu", "forget_loss.terms.forget.layer=0", "max_train_steps=1")
        trainer(folder, *words, f"gradient_checkpointing={given}", callbacks=[kept]).train()
        found.append((read_lines(folder / "train_log.jsonl"), kept.steps[0]))
    (log, plain), (other, again) = found
    assert log == other and log[0]["terms"]["forget"] > 1
    assert all(torch.equal(plain[name], again[name]) for name in plain)


class Waits(TorchDispatchMode):
    """Keeps the operations whose result a GPU's program would wait for."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masked = name in ("index", "_index_put_impl_", "index_put") and any(
            index is not None and index.dtype is torch.bool for index in args[1]
        )
        if masked or name in ("_local_scalar_dense", "nonzero", "equal", "masked_select"):
            self.names.append(name)
        return function(*args, **kwargs or {})


@pytest.mark.parametrize("method", ["popd", "klpd", *FURTHER])
def test_a_micro_step_waits_for_nothing_but_what_the_model_itself_asks(tmp_path, monkeypatch, method):
    """LLaVA and its attention look whether pictures and padding are what they take them for; the reference's too."""
    built = trainer(tmp_path, f"forget_loss={method}", *MORE.get(method, ()), "max_train_steps=1", "batch_size=2")
    batch = built.data_collator([built.train_dataset[0], built.train_dataset[1]])
    built.accelerator.gradient_state._set_sync_gradients(False)  # as before an optimizer step's last
    inputs = batch["inputs"]
    with Waits() as alone, torch.no_grad():
        built.model(**inputs)
        for compared in batch["reference"].values():
            built.model(**{key: inputs[key][where] for key, where in compared["entries"].items()})
    monkeypatch.setattr(torch.Tensor, "tolist", None)
    with Waits() as waits:
        built.compute_loss(built.model, batch).backward()
    assert waits.names == alone.names and set(alone.names) == {"_local_scalar_dense"}


def test_weight_decay_spares_biases(tmp_path):
    built = trainer(tmp_path, "forget_loss=ga", "max_train_steps=1")
    groups = built.create_optimizer().param_groups
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert {group["weight_decay"] for group in groups} == {0.01, 0.0}
    for name, parameter in built.model.named_parameters():
        if parameter.requires_grad:
            assert (id(parameter) in decayed) == (not name.endswith("bias")), name


def test_the_adapter_given_is_what_training_starts_from(tmp_path):
    start = f"init_adapter={RECORDED / 'initial_adapter.safetensors'}"
    model = built_model(settings(start, f"save_dir={tmp_path}"))
    expected = from_release(load_file(RECORDED / "initial_adapter.safetensors"))
    found = {n.replace(".default", "").replace(".modules_to_save", ""): p for n, p in model.named_parameters()}
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def in_place(base, config, parts, attach):
    """The projector trained in place, as a plain `requires_grad` would."""
    config.modules_to_save = None
    model = attach(base, config, parts)
    base.model.multi_modal_projector.requires_grad_(True)
    return model


def by_a_shared_tensor(base, config, parts, attach):
    """A copy of the projector that is none."""
    model = attach(base, config, parts)
    wrapper = base.model.multi_modal_projector
    for mine, original in zip(wrapper.modules_to_save.parameters(), wrapper.original_module.parameters(), strict=True):
        mine.data = original.data
    return model


@pytest.mark.parametrize(
    ("careless", "engine", "says"),
    [
        (in_place, Engine(), "linear_1.weight would be trained"),
        (in_place, Engine("fsdp", 2), "linear_1.weight would be trained"),
        (by_a_shared_tensor, Engine(), "the model is not the untouched one"),
    ],
)
def test_a_reference_that_training_would_change_ends_the_run(tmp_path, monkeypatch, careless, engine, says):
    """Where no process holds the model whole, names tell; elsewhere an answer does too."""
    attach = models.attach
    monkeypatch.setattr(models, "attach", lambda *given: careless(*given, attach))
    with pytest.raises(AssertionError, match=f"{says}.*KL has no reference"):
        built_model(settings("forget_loss=kl", f"save_dir={tmp_path}"), engine)
    built_model(settings("forget_loss=gd", f"save_dir={tmp_path}"), engine)


@pytest.mark.parametrize(("engine", "runs"), [(Engine(), 1), (Engine("fsdp", 2), 0), (Engine("zero3", 2), 0)])
def test_a_sharded_reference_is_not_run(tmp_path, monkeypatch, engine, runs):
    """On its CPU a whole model would take minutes, and kernels for GPUs would fail."""
    asked = []
    monkeypatch.setattr(run, "row_logits", lambda model, batch: asked.append(model))
    monkeypatch.setattr(run, "check_reference", lambda *given: None)
    built_model(settings("forget_loss=kl", f"save_dir={tmp_path}"), engine)
    assert len(asked) == runs


@pytest.mark.parametrize(
    ("engine", "dtype"), [("single", torch.float32), ("fsdp", torch.float32), ("zero3", torch.bfloat16)]
)
def test_deepspeed_is_given_the_dtype_it_computes_in(tmp_path, engine, dtype):
    model = built_model(settings("forget_loss=gd", "dtype=bfloat16", f"save_dir={tmp_path}"), Engine(engine))
    assert {each.dtype for each in model.parameters() if each.requires_grad} == {dtype}


def test_what_no_output_reaches_is_never_trained(tmp_path):
    """Neither from the start nor after the reference, at whose end PEFT would have it trained again."""
    kept = Gradients()  # which would fail where something trained has none
    built = trainer(tmp_path, "forget_loss=kl", "tune_vision_tower=true", "max_train_steps=1", callbacks=[kept])
    built.train()
    built.save_model()
    trained = [name for name in kept.steps[0] if ".vision_tower." in name]
    assert any(".layers.1." in name for name in trained)  # the last but one of three, which LLaVA looks at
    assert not any(".layers.2." in name or ".post_layernorm." in name for name in trained)
    # Saved with the adapter all the same, as it goes with the rest of the tower.
    assert any(".layers.2." in name for name in load_file(tmp_path / "adapter_model.safetensors"))


def test_checkpointed_activations_change_nothing(tmp_path):
    found = []
    for name, given in (("kept", "false"), ("again", "true")):
        folder = tmp_path / name
        built = trainer(folder, "forget_loss=klpd", "max_train_steps=2", f"gradient_checkpointing={given}")
        built.train()
        found.append((read_lines(folder / "train_log.jsonl"), dict(built.model.named_parameters())))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


@pytest.mark.parametrize("given", [(), ("gradient_checkpointing=true",), ("LoRA.use_dora=true",)])
def test_what_peft_would_cast_to_float32_and_autocast_back_is_the_same_uncast(tmp_path, given):
    """Losses, gradients, and the logits that probes see, in bfloat16 under autocast and without dropout."""
    found = []
    for casts in (False, True):
        kept = Gradients()
        folder = tmp_path / str(casts)
        shape = ("gradient_accumulation_steps=2", "max_train_steps=1", "dtype=bfloat16")
        built = trainer(folder, "forget_loss=klpd", *shape, *given, callbacks=[kept])
        for module in built.model.modules():
            if isinstance(module, LoraLayer):
                assert module.lora_A["default"].weight.dtype is torch.float32
                module.cast_input_dtype_enabled |= casts
        built.train()
        batch = built.data_collator([built.train_dataset[0]])
        built.model.eval()
        with torch.no_grad(), built.accelerator.autocast():
            logits = built.model(**batch["inputs"]).logits
        found.append((read_lines(folder / "train_log.jsonl"), kept.steps[0], logits))
    (log, gradients, logits), (log_cast, gradients_cast, logits_cast) = found
    assert log == log_cast and torch.equal(logits, logits_cast)
    assert all(value.norm() > 0 and torch.equal(value, gradients_cast[name]) for name, value in gradients.items())


def test_the_frozen_language_model_in_4_bits(tmp_path):
    """Real bitsandbytes: its gradients are those of a plain model with the rounded weights, also after evaluation."""
    built = trainer(tmp_path, "forget_loss=klpd", "max_train_steps=1", "quantization=nf4")
    packed = {n: m for n, m in built.model.named_modules() if type(m) is bitsandbytes.nn.Linear4bit}
    assert len(packed) == 7 * 2 and all(".language_model.layers." in name for name in packed)
    plain = trainer(tmp_path, "forget_loss=klpd", "max_train_steps=1")
    for name, module in packed.items():
        rounded = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
        weight = plain.model.get_submodule(name).weight
        assert 0 < (weight - rounded).abs().max() < 0.2 * weight.abs().max()
        weight.data.copy_(rounded)
    batch = built.data_collator([built.train_dataset[0]])
    with torch.no_grad():
        built.model.eval()(**batch["inputs"])
    gradients = []
    for which in (built, plain):
        which.model.train()
        which.compute_loss(which.model, batch).backward()
        gradients.append({n: p.grad for n, p in which.model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * 7 * 2 + 4
    for name, expected in gradients[1].items():
        assert torch.allclose(gradients[0][name], expected, rtol=1e-4, atol=1e-5 * expected.abs().max()), name
