"""The dry run: parameters counted by hand, sizes as the collator makes them, memory beside that of real training."""

import shutil

import pytest
import torch
from helpers import METHODS, MODEL, RECORDED, ROOT, TRAIN, config, plan_dataset, refused, run, settings
from safetensors.torch import load_file, save_file
from transformers import LlavaConfig

from safeeraser.selftest.memory import measure
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.dry_run import conversation_sizes, count_parameters, outline, planned_step
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.memory import MicroStep, Setup, held, memory
from safeeraser.unlearn.run import collator

pytestmark = pytest.mark.slow

GIVEN = (f"data_path={TRAIN}", "dry_run=true")
TINY = (*GIVEN, f"model_path={MODEL}")
ENGINES = sorted((ROOT / "config").glob("accelerate*.yaml")) + sorted((ROOT / "config" / "accelerate").glob("*.yaml"))
GIB = 2**30


def dry(tmp_path, *overrides):
    """What a dry run prints, and its log; it must leave nothing behind."""
    done = run("forget", *overrides, f"save_dir={tmp_path / 'no'}")
    assert done.returncode == 0, done.stderr
    assert not any(tmp_path.iterdir())
    return done.stdout, done.stderr


def row(text, name):
    """The numbers of the last row called `name`."""
    line = [line for line in text.splitlines() if line.strip().startswith(f"{name} ")][-1]
    return [float(word.replace(",", "")) for word in line.strip().removeprefix(name).split()]


def family(size, *overrides):
    """The settings of a family and the meta model of its own numbers, in bfloat16."""
    read = read_settings(config(f"model_family=llava-1.5-{size}", *overrides))
    return read, outline(read, LlavaConfig(**read.model_family.architecture), torch.bfloat16)


@pytest.mark.parametrize(
    ("size", "hidden", "inner", "layers", "published"),
    [("7b", 4096, 11008, 32, (80.0e6, 21.0e6)), ("13b", 5120, 13824, 40, (125e6, 31e6))],
)
def test_parameters_of_the_real_models(size, hidden, inner, layers, published):
    read, model = family(size)
    counts = count_parameters(model, read)
    # Rank 32 on q, k, v, o (hidden x hidden) and gate, up, down (hidden x inner); the projector's two linear layers.
    lora = layers * 32 * (4 * (hidden + hidden) + 3 * (hidden + inner))
    projector = (1024 * hidden + hidden) + (hidden * hidden + hidden)
    assert (counts["LoRA"][0], counts["projector"][0]) == (lora, projector)
    assert (lora, projector) == pytest.approx(published, rel=0.02)
    # The untouched projector is kept beside the trained one; norms: two a layer and one at the end.
    language = 32064 * hidden + layers * (4 * hidden**2 + 3 * hidden * inner + 2 * hidden) + hidden
    assert counts["projector"][1] == projector
    assert counts["language model"] == (0, language) and counts["head"] == (0, 32064 * hidden)
    assert counts["LoRA"][1] == 0 and counts["vision tower"][1] == pytest.approx(303.5e6, rel=0.001)


def test_the_vision_tower_is_counted_where_it_is_trained():
    read, model = family("7b", "tune_vision_tower=true")
    trained, kept = count_parameters(model, read)["vision tower"]
    # Its last layer and norm, which LLaVA does not look at, are not trained, and lie in the trained copy too.
    unseen = 2 * 1024 * 4096 + 4096 + 1024 + 4 * (1024**2 + 1024) + 6 * 1024
    assert trained + unseen == kept - unseen == 303_507_456


def test_without_weights_and_without_the_hub(tmp_path):
    """The 7B model on the default engine, from the family's own numbers."""
    engine = f"engine={ROOT / 'config' / 'accelerate_config.yaml'}"
    told, log = dry(tmp_path, *GIVEN, engine)
    assert "llava-hf/llava-1.5-7b-hf is not here and cannot be had from the hub" in log and "error" not in log
    assert row(told, "records") == [12] and row(told, "refusal items") == row(told, "decoupled items") == [48]
    assert row(told, "items of the plan") == [480] and row(told, "optimizer steps") == [480 / (16 * 2)]
    assert row(told, "of them warm-up") == [round(0.06 * 15)]
    # A text as long as max_length, its picture 24 x 24 tokens instead of one.
    assert row(told, "tokens of the longest row") == [511 + 576] and row(told, "rows a micro-step") == [3]
    assert row(told, "LoRA") == [79953920] and row(told, "projector") == [20979712, 20979712]
    assert row(told, "frozen weights") == [round(2 * 7_063_427_072 / GIB, 2)]
    assert row(told, "trained weights") == [round(2 * 100_933_632 / GIB, 2)]
    # In CPU memory, half of it each: float32 masters, gradients and two moments, and a bfloat16 buffer.
    assert row(told, "optimizer state") == [round((4 + 4 + 8 + 2) * 100_933_632 / 2 / GIB, 2)]
    device, cpu = row(told, "total")
    assert 37 < device < 40 and 1 < cpu < 2


def test_a_folder_without_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (tmp_path / "run").mkdir()
    assert (
        dry(tmp_path / "run", *GIVEN, f"model_path={folder}")[0].splitlines()[1:]
        == (dry(tmp_path / "run", *TINY)[0].splitlines()[1:])
    )
    (folder / "tokenizer.json").unlink()
    refused(tmp_path, "forget", *GIVEN, f"model_path={folder}", says="no tokenizer or no picture processor")


def test_a_misspelt_model_is_refused(tmp_path):
    refused(tmp_path, "forget", *GIVEN, "model_path=llava-hf/llava-1.5-7b", says="no model in this folder")
    # A folder of the family's own name that holds no model.
    (tmp_path / "llava-hf" / "llava-1.5-7b-hf").mkdir(parents=True)
    refused(tmp_path, "forget", *GIVEN, cwd=tmp_path, says="no model in this folder")


def test_an_adapter_that_does_not_fit_is_refused(tmp_path):
    adapter = RECORDED / "initial_adapter.safetensors"
    (tmp_path / "run").mkdir()
    dry(tmp_path / "run", *TINY, f"init_adapter={adapter}")
    noted = {"before": "that it does not tell its base"}
    says = "does not fit the model: "
    refused(tmp_path, "forget", *TINY, f"init_adapter={adapter}", "LoRA.r=8", says=says, **noted)
    tensors = load_file(adapter)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, tmp_path / "cut.safetensors")
    refused(tmp_path, "forget", *TINY, f"init_adapter={tmp_path / 'cut.safetensors'}", says="is missing", **noted)


def test_a_conversation_without_room_is_refused(tmp_path):
    refused(tmp_path, "forget", *TINY, "max_length=20", says="leaves no room for its answer")


@pytest.mark.parametrize("file", ENGINES, ids=lambda file: file.stem)
def test_every_engine_that_is_shipped(tmp_path, file):
    told, _ = dry(tmp_path, *TINY, f"engine={file}", "gradient_accumulation_steps=2")
    device = row(told, "total")[0]
    assert device > 1 and row(told, "processes") == [1 if file.stem == "one_gpu" else 2]
    assert ("gathered" in told) == (file.stem in ("zero3", "cpu_zero3", "fsdp2"))


def test_what_engines_share_out():
    """By hand, for 100,933,632 trained and 7,063,427,072 frozen parameters, in bytes; (device, CPU memory)."""
    trained, frozen = 100_933_632, 7_063_427_072
    read, model = family("7b")

    def parts(name, processes=4, dtype=torch.bfloat16, **more):
        setup = Setup(read, Engine(name, processes, **more), dtype)
        return {part.name: (part.device, part.cpu) for part in held(model, setup)}

    one, ddp = parts("single", 1), parts("ddp")
    assert one["frozen weights"] == (2 * frozen, 0) and one["trained weights"] == one["gradients"] == (4 * trained, 0)
    assert one["optimizer state"] == (8 * trained, 0) and "gradient bucket" not in one
    assert one["last good weights, and those before"] == (0, 2 * 4 * trained)
    unguarded = Setup(settings("stop.not_finite=false"), Engine(), torch.bfloat16)
    assert "last good weights, and those before" not in {part.name for part in held(model, unguarded)}
    assert ddp == {**one, "gradient bucket": (4 * trained, 0)}

    zero1, zero2, zero3 = parts("zero1"), parts("zero2"), parts("zero3")
    for zero in (zero1, zero2, zero3):
        assert zero["optimizer state"] == ((8 + 4) * trained / 4, 0) and zero["gradient bucket"] == (2 * 5e8, 0)
    assert zero1["gradients"] == (2 * trained, 0) and zero2["gradients"] == zero3["gradients"] == (4 * trained / 4, 0)
    assert zero2["last good weights, and those before"] == (0, 2 * 4 * trained / 4)
    assert zero2["frozen weights"] == (2 * frozen, 0) and zero3["frozen weights"] == (2 * frozen / 4, 0)
    assert zero2["trained weights"] == (2 * trained, 0) and zero3["trained weights"] == (2 * trained / 4, 0)
    assert zero3["weights gathered for the layers at work"] == (2 * 1e9, 0)

    moved = parts("zero2", offload_optimizer=True)
    assert moved["gradients"] == (0, 2 * trained / 4) and moved["optimizer state"] == (0, (8 + 4 + 4 + 2) * trained / 4)
    moved = parts("zero3", offload_weights=True)
    assert moved["frozen weights"] == (0, 2 * frozen / 4) and moved["optimizer state"] == zero3["optimizer state"]

    fsdp = parts("fsdp")
    assert fsdp["frozen weights"] == zero3["frozen weights"] and fsdp["trained weights"] == (trained, 0)
    assert fsdp["gradients"] == (trained, 0) and fsdp["optimizer state"] == (2 * trained, 0)
    moved = parts("fsdp", offload_weights=True)
    assert {name for name, (device, _) in moved.items() if device} == {"weights gathered for the layers at work"}


def test_four_bits():
    read, model = family("7b", "quantization=nf4")
    setup = Setup(read, Engine(), torch.bfloat16)
    linear = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    weights = held(model, setup)[0].device
    # 4 bits; a byte for each 64 weights and a float32 for each 256 of those bytes; all else as it was.
    assert weights == linear * (1 / 2 + 1 / 64 + 4 / 64 / 256) + 2 * (7_063_427_072 - linear)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_largest_micro_step_is_the_collators(method, batch):
    read = settings(f"forget_loss={method}", "num_epochs=1", f"batch_size={batch}")
    dataset = plan_dataset(read)
    collate = collator(read, dataset)
    batches = [
        collate([dataset[number] for number in range(start, min(start + batch, len(dataset)))])
        for start in range(0, len(dataset), batch)
    ]
    step = planned_step(read, dataset)
    assert (step.rows, step.length) == (
        max(len(each["inputs"]["input_ids"]) for each in batches),
        max(each["inputs"]["input_ids"].shape[1] for each in batches),
    )
    for name in read.method.terms:
        assert step.terms[name] == max(sum(each["runs"][number] for number in each["takes"][name]) for each in batches)


def test_long_answers_are_cut_as_in_training():
    read = settings("forget_loss=popd", "num_epochs=1", "max_length=180")
    dataset = plan_dataset(read)
    for number, sizes in enumerate(conversation_sizes(dataset)):
        for view, row in dataset[number]:
            assert sizes[view] == (len(row.input_ids), sum(label != -100 for label in row.labels))


@pytest.mark.parametrize("finetune", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", ["false", "true"])
@pytest.mark.parametrize("method", ["gd", "klpd"])
def test_the_estimate_is_what_training_takes(tmp_path, monkeypatch, method, checkpointing, finetune):
    """Two optimizer steps of two micro-steps each, in float32; what torch's allocator gave out meanwhile."""
    monkeypatch.chdir(RECORDED)
    shape = ("batch_size=4", "gradient_accumulation_steps=2", "max_train_steps=2", f"save_dir={tmp_path / 'run'}")
    given = (f"forget_loss={method}", f"gradient_checkpointing={checkpointing}", f"finetune={finetune}")
    parts, weights, peak = measure(settings(*given, *shape))
    sizes = {part.name: part.device for part in parts}
    assert weights == sum(sizes.pop(name, 0) for name in ("frozen weights", "trained weights", "the untouched model"))
    # What the estimate leaves out are the micro-steps' own tensors, pictures above all: much beside a model this small.
    assert 0.95 < sum(sizes.values()) / peak < 1.06


FIRST = "forget_loss.terms.forget.layer=0"


@pytest.mark.parametrize(
    "words",
    [("npo",), ("ceu",), ("rmu", FIRST), ("rmu", FIRST, "pd=1"), ("rmu", FIRST, "gradient_checkpointing=true")],
    ids=" ".join,
)
def test_the_estimate_follows_what_a_loss_is_given(tmp_path, monkeypatch, words):
    """Likelihoods of the reference alone; the model's own distribution; a layer's states, and nothing run above it."""
    monkeypatch.chdir(RECORDED)
    method, *more = words
    shape = ("batch_size=4", "gradient_accumulation_steps=2", "max_train_steps=2", f"save_dir={tmp_path / 'run'}")
    parts, weights, peak = measure(settings(f"forget_loss={method}", *more, *shape))
    assert 0.95 < (sum(part.device for part in parts) - weights) / peak < 1.1


LAYERS = 4
PICTURE = {"pixel_values": torch.zeros(1, 3, 336, 336)}
STEP = MicroStep(rows=3, length=1087, terms={"preference": 600, "decoupled": 300}, picture=PICTURE)
KEPT, MOMENT = "activations kept for the backward pass", "losses, or a layer at work"


def whole(*overrides, engine=None, step=STEP):
    """The bytes of each part for popd in bfloat16, on a model as wide as 7B, of a few layers only."""
    read = read_settings(config("model_family=llava-1.5-7b", "forget_loss=popd", *overrides))
    shape = LlavaConfig(**read.model_family.architecture)
    shape.text_config.num_hidden_layers = shape.vision_config.num_hidden_layers = LAYERS
    model = outline(read, shape, torch.bfloat16)
    return {part.name: part.device for part in memory(model, Setup(read, engine or Engine(), torch.bfloat16), step)}


def test_what_a_micro_step_makes():
    """Each setting that changes what is kept, beside the same without it."""
    plain = whole()
    # Float32 adapters under autocast; DeepSpeed and FSDP have them in bfloat16.
    zero2, fsdp = (whole(engine=Engine(name, 2)) for name in ("zero2", "fsdp"))
    assert 0.95 * plain[KEPT] < fsdp[KEPT] == zero2[KEPT] < plain[KEPT]
    tokens = 3 * 1087
    # What enters each layer stays; the rest comes back a layer at a time.
    spared = whole("gradient_checkpointing=true")
    assert LAYERS * tokens * 4096 * 2 < spared[KEPT] < 0.2 * plain[KEPT]
    share = (plain[KEPT] - spared[KEPT]) / LAYERS
    assert share < spared[MOMENT] < share + 0.5 * GIB
    # Dropout keeps a byte an element of what enters each of the seven linear layers, and in bfloat16 what it leaves.
    # Without it layers that are given the same keep that once, and what attention gives is kept in any case.
    dropped, given = 6 * 4096 + 11008, 2 * 4096 + 11008
    more = plain[KEPT] - whole("LoRA.dropout=0")[KEPT]
    assert more == pytest.approx(LAYERS * tokens * (3 * dropped - 2 * given), rel=0.01)
    # Eager attention keeps every head's probabilities.
    assert whole("attention=eager")[KEPT] > plain[KEPT] + LAYERS * tokens * 32 * 1087 * 2
    # A trained vision tower keeps what a frozen one does not.
    assert whole("tune_vision_tower=true")[KEPT] > plain[KEPT] + (LAYERS - 1) * 3 * 577 * (4096 + 8 * 1024) * 2
    assert whole(step=MicroStep(6, 1087, STEP.terms, PICTURE))[KEPT] == pytest.approx(2 * plain[KEPT], rel=0.05)
    # One weight of four bits at a time is turned back.
    four_bits = whole("quantization=nf4", "gradient_checkpointing=true")
    assert four_bits[MOMENT] == spared[MOMENT] + 4096 * 11008 * 2 and four_bits[KEPT] == spared[KEPT]


def test_logits_of_all_positions_with_their_reference():
    step = MicroStep(3, 1087, {"forget": 0, "kl": 12 * 1087, "decoupled": 0}, PICTURE)
    parts = whole("forget_loss=klpd", step=step)
    # Logits, their gradient, and the untouched model's; both losses work on 64 positions at a time.
    assert parts[MOMENT] == (3 * 12 * 1087 + 2 * 64) * 32064 * 4


@pytest.mark.parametrize("method", ["popd", "klpd"])
def test_a_model_trained_whole(method):
    """7B's language model, head and projector without an adapter, its vision tower frozen; KL needs a second copy."""
    read, model = family("7b", "finetune=full", f"forget_loss={method}")
    trained, frozen = 6_607_605_760 + 131_334_144 + 20_979_712, 303_507_456
    counts = count_parameters(model, read)
    assert counts["LoRA"] == (0, 0) and counts["vision tower"] == (0, frozen)
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == [trained, frozen]
    parts = {part.name: part.device for part in held(model, Setup(read, Engine("zero2", 4), torch.bfloat16))}
    assert parts["trained weights"] == 2 * trained and parts["frozen weights"] == 2 * frozen
    assert parts["optimizer state"] == (8 + 4) * trained / 4
    assert parts.get("the untouched model") == (2 * (trained + frozen) if method == "klpd" else None)


def test_a_dry_run_of_a_model_trained_whole(tmp_path):
    told, _ = dry(tmp_path, *TINY, "finetune=full", "forget_loss=klpd")
    trained, frozen, copied = (row(told, name) for name in ("trained weights", "frozen weights", "the untouched model"))
    assert trained[0] + frozen[0] == pytest.approx(copied[0], abs=0.02) and trained[0] > frozen[0]
