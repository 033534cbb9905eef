"""The dry run: parameters and memory counted by hand, the whole printed text, and the estimate beside real training."""

import shutil
from pathlib import Path

import pytest
import torch
from helpers import MODEL, RECORDED, TRAIN, config, plan_dataset, run
from transformers import LlavaConfig

from safeeraser.selftest.memory import measure
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.dry_run import conversation_sizes, count_parameters, outline, planned_step
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.memory import Setup, held
from safeeraser.unlearn.run import collator

from .given import settings

GOLDEN = Path(__file__).parent / "golden"
TINY = (f"data_path={TRAIN}", f"model_path={MODEL}", "dtype=float32", "dry_run=true")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dry_run_popd", "max_train_steps=5 init_adapter={adapter}"),
        ("dry_run_two_processes", "forget_loss=klpd recipe=corrected batch_size=5 gradient_accumulation_steps=1"
         " num_epochs=1 warmup_ratio=0.3 engine={config}/accelerate/cpu_ddp.yaml gradient_checkpointing=true"
         " gpu_memory=0.01 mask.top=0.25"),
        ("dry_run_whole", "forget_loss=kl finetune=full step=sam projector=frozen dtype=bfloat16 gpu_memory=40"
         " engine={config}/accelerate/cpu_zero2.yaml"),
    ],
)  # fmt: skip
def test_what_a_dry_run_prints(tmp_path, name, words):
    config = Path(RECORDED).parents[2] / "config"
    words = words.format(config=config, adapter=RECORDED / "initial_adapter.safetensors").replace("mask", "+mask")
    model = shutil.copytree(MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    before = set(tmp_path.rglob("*"))
    done = run("forget", *TINY, f"model_path={model}", f"save_dir={tmp_path / 'no'}", *words.split())
    assert done.returncode == 0 and set(tmp_path.rglob("*")) == before, done.stderr
    text = "".join(
        f"{line.rstrip()}\n" for line in done.stdout.replace(str(model), "MODEL").splitlines() if line.strip()
    )
    assert text == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def family(size, *overrides):
    """The settings of a family and the meta model of its own numbers, in bfloat16."""
    read = read_settings(config(f"model_family=llava-1.5-{size}", *overrides))
    return read, outline(read, LlavaConfig(**read.model_family.architecture), torch.bfloat16)


@pytest.mark.parametrize(
    ("size", "hidden", "inner", "layers", "published"),
    [
        ("7b", 4096, 11008, 32, (80.0e6, 21.0e6)),
        pytest.param("13b", 5120, 13824, 40, (125e6, 31e6), marks=pytest.mark.slow),
    ],
)
def test_parameters_of_the_real_models(size, hidden, inner, layers, published):
    read, model = family(size)
    counts = count_parameters(model, read)
    # Rank 32 on q, k, v, o (hidden x hidden) and gate, up, down (hidden x inner); the projector's two linear layers.
    lora = layers * 32 * (4 * (hidden + hidden) + 3 * (hidden + inner))
    projector = (1024 * hidden + hidden) + (hidden * hidden + hidden)
    assert (lora, projector) == pytest.approx(published, rel=0.02)
    # The untouched projector is kept beside the trained one; norms: two a layer and one at the end. The tower by hand,
    # a layer's 12 matrices of 1024 x 1024 among it, is that of transformers' CLIP ViT-L/14 at 336 pixels.
    language = 32064 * hidden + layers * (4 * hidden**2 + 3 * hidden * inner + 2 * hidden) + hidden
    rest = {"vision tower": (0, 303_507_456), "language model": (0, language), "head": (0, 32064 * hidden)}
    assert counts == {"LoRA": (lora, 0), "projector": (projector, projector)} | rest


def test_what_engines_share_out():
    """By hand, for 100,933,632 trained and 7,063,427,072 frozen parameters, in bytes; (device, CPU memory)."""
    trained, frozen = 100_933_632, 7_063_427_072
    read, model = family("7b")

    def parts(name, processes=4, read=read, **more):
        setup = Setup(read, Engine(name, processes, **more), torch.bfloat16)
        return {part.name: (part.device, part.cpu) for part in held(model, setup)}

    one, guard = parts("single", 1), "last good weights, and those before"
    assert one == {
        "frozen weights": (2 * frozen, 0), "trained weights": (4 * trained, 0), "gradients": (4 * trained, 0),
        "optimizer state": (8 * trained, 0), guard: (0, 2 * 4 * trained),
    }  # fmt: skip
    assert guard not in parts("single", 1, settings("stop.not_finite=false"))
    assert parts("ddp") == {**one, "gradient bucket": (4 * trained, 0)}
    zero2, zero3 = parts("zero2"), parts("zero3")
    assert zero2 == {
        "frozen weights": (2 * frozen, 0), "trained weights": (2 * trained, 0), "gradients": (4 * trained / 4, 0),
        "gradient bucket": (2 * 5e8, 0), "optimizer state": ((8 + 4) * trained / 4, 0), guard: (0, 2 * 4 * trained / 4),
    }  # fmt: skip
    assert parts("zero1") == {**zero2, "gradients": (2 * trained, 0)}
    gathered = {"weights gathered for the layers at work": (2 * 1e9, 0)}
    shared = {"frozen weights": (2 * frozen / 4, 0), "trained weights": (2 * trained / 4, 0)}
    assert zero3 == zero2 | shared | gathered
    moved = {"gradients": (0, 2 * trained / 4), "optimizer state": (0, (8 + 4 + 4 + 2) * trained / 4)}
    assert parts("zero2", offload_optimizer=True) == zero2 | moved
    away = {"frozen weights": (0, 2 * frozen / 4), "trained weights": (0, 2 * trained / 4)}
    assert parts("zero3", offload_weights=True) == zero3 | away
    fsdp = parts("fsdp")
    assert fsdp["frozen weights"] == zero3["frozen weights"] and fsdp["trained weights"] == (trained, 0)
    assert fsdp["gradients"] == (trained, 0) and fsdp["optimizer state"] == (2 * trained, 0)
    moved = parts("fsdp", offload_weights=True)
    assert {name for name, (device, _) in moved.items() if device} == {"weights gathered for the layers at work"}
    # 4 bits; a byte for each 64 weights and a float32 for each 256 of those bytes; all else as it was.
    linear, four = 32 * (4 * 4096**2 + 3 * 4096 * 11008), settings("quantization=nf4")
    expected = linear * (1 / 2 + 1 / 64 + 4 / 64 / 256) + 2 * (frozen - linear)
    assert parts("single", 1, four)["frozen weights"][0] == expected


@pytest.mark.parametrize("words", ["forget_loss=popd max_length=180", "forget_loss=klpd batch_size=3"])
def test_the_largest_micro_step_is_the_collators(words):
    read = settings("num_epochs=1", *words.split())
    dataset, collate, size = plan_dataset(read), collator(read, plan_dataset(read)), read.batch_size
    for number, sizes in enumerate(conversation_sizes(dataset)):  # cut as in training
        for view, row in dataset[number]:
            assert sizes[view] == (len(row.input_ids), sum(label != -100 for label in row.labels))
    batches = [collate([dataset[n] for n in range(at, min(at + size, 48))]) for at in range(0, 48, size)]
    shapes, step = [batch["inputs"]["input_ids"].shape for batch in batches], planned_step(read, dataset)
    assert (step.rows, step.length) == (max(rows for rows, _ in shapes), max(length for _, length in shapes))
    for name in read.method.terms:
        assert step.terms[name] == max(sum(each["runs"][number] for number in each["takes"][name]) for each in batches)


FIRST = "forget_loss.terms.forget.layer=0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "bound"),
    [
        ("forget_loss=klpd", 1.06),
        ("forget_loss=gd gradient_checkpointing=true", 1.06),
        ("forget_loss=klpd finetune=full", 1.06),
        ("forget_loss=npo", 1.1),
        (f"forget_loss=rmu pd=1 {FIRST}", 1.1),
    ],
)
def test_the_estimate_is_what_training_takes(tmp_path, monkeypatch, words, bound):
    """Two optimizer steps of two micro-steps each, in float32; what torch's allocator gave out meanwhile."""
    monkeypatch.chdir(RECORDED)
    shape = ("batch_size=4", "gradient_accumulation_steps=2", "max_train_steps=2", f"save_dir={tmp_path / 'run'}")
    parts, weights, peak = measure(settings(*words.split(), *shape))
    sizes = {part.name: part.device for part in parts}
    assert weights == sum(sizes.pop(name, 0) for name in ("frozen weights", "trained weights", "the untouched model"))
    # What the estimate leaves out are the micro-steps' own tensors, pictures above all: much beside a model this small.
    assert 0.95 < sum(sizes.values()) / peak < bound
