"""What the engines train, by name, and how it is compared: two optimizer steps, but where figures are recorded."""

import json

import torch
from helpers import ROOT, read_lines
from safetensors.torch import load_file

from safeeraser.unlearn.save_dir import MASK_FILE

from .test_release import CONFORMANCE

CPUS = ("cpu_ddp", "cpu_zero2", "cpu_zero3")
WHOLE_WEIGHTS = CPUS[:2]  # what moves or masks weights is refused where each process has a part of them
# The files for GPUs, and how far LoRA's B may be off in bfloat16:
# DeepSpeed's gradients are in bfloat16 too; elsewhere sums in another order flip a rounding now and then.
GPUS = {"ddp": 0.01, "fsdp2": 0.01, "../accelerate_config": 0.05, "zero3": 0.05}
SHARDED = "../accelerate_config"
FAMILIES = ROOT / "tests" / "data" / "families"  # of other families: extra inputs without an axis of rows, tiles
FAMILY_FILES = {"model_path": "model", "init_adapter": "adapter", "plan": "plan.json"}
NINE = json.loads((CONFORMANCE / "training" / "gdpd.json").read_text())["steps"][:9]

TWO = ("max_train_steps=2", "warmup_ratio=0")
FRESH = (*TWO, "init_adapter=null")
EAGER = (*FRESH, "attention=eager")
# Plain descent: Adam makes as much of a gradient of any size, also of one that is rounding alone.
SGD = ("trainer.optim=sgd", "lr=0.2")
FULL = ("init_adapter=null", "finetune=full", "max_train_steps=2", "lr=0.01", "trainer.optim=sgd")
TEXT = ("data.views.retain.image=null", "max_train_steps=2")
# The untrained adapter's retain loss is near 7: one weight grows, and one falls.
DUAL = ("forget_loss.terms.retain.weight={at_most: 5, rate: 0.5}",)
BOTH = (*DUAL, "pd={at_most: 8, rate: 0.25}", "max_train_steps=3")
# A rate and a decay at which whatever may move does.
MASK = (*TWO, "init_adapter={start}", "lr=0.01", "weight_decay=0.5", "mask={top:0.3,items:4}")
STOPPED = ("warmup_ratio=0", "max_grad_norm=0", "lr=0.02", "stop.forget_loss=9", "save_steps=1", "save_total_limit=9")
# All that a checkpoint must hold: weights that follow losses, a mean, sines, bounds, random numbers, probes.
SINES = ("projector=sine", "LoRA.dropout=0.1", "stop.forget_loss=99", "probe_every=3", "probe.prompts=1")
SINES = (*EAGER, *SINES, "probe.max_new_tokens=2", "save_steps=2", "max_train_steps=4")
STATE = (*SINES, *DUAL, "step=average", "step.last=0.75")
TWINS = ("plan={folder}/twins.json", "LoRA.dropout=0.5", "lr=0.01", "warmup_ratio=0")
NARROW = ("init_adapter=null", "max_train_steps=6")
DROPPED = ("init_adapter=null", "max_train_steps=3", "LoRA.dropout=0.1")

# By name: under which engines, items an optimizer step, the method, what is not as in `words_of`.
RUNS = {
    "start": ((), 4, "gd", (*FRESH, "lr=0.01")),
    "release_gdpd": (CPUS[:1], 4, "gdpd", ()),
    "release_klpd": (CPUS[:2], 4, "klpd", ()),
    "release_npo": (("cpu_zero3", "fsdp2"), 4, "npo", ("attention=eager",)),
    "nine": (CPUS[:1], 4, "gdpd", ("plan={folder}/nine.json", "batch_size=2", "gradient_accumulation_steps=1")),
    "twins": (CPUS[:1], 2, "ga", TWINS),
    "tower": (CPUS[:1], 4, "klpd", ("init_adapter=null", "tune_vision_tower=true", "max_train_steps=2")),
    "full": (CPUS[2:], 4, "gdpd", FULL),
    "text": (CPUS[::2], 4, "none", ("plan=null", *TEXT)),
    "half_text": (CPUS, 4, "klpd", TEXT),
    "first_layer": (("cpu_zero3", "fsdp2"), 4, "rmu", (*EAGER, "forget_loss.terms.forget.layer=0")),
    "dual": (("cpu_zero2", "fsdp2"), 4, "pdu", (*EAGER, *BOTH, f"plan={CONFORMANCE / 'methods' / 'npo_pd.json'}")),
    "sine": (("cpu_ddp", "fsdp2"), 4, "klpd", (*FRESH, "projector=sine")),
    "lora": (("cpu_zero2", "fsdp2"), 4, "klpd", (*FRESH, "projector=lora")),
    "mask": ((*WHOLE_WEIGHTS, SHARDED), 4, "klpd", MASK),
    "sam": (WHOLE_WEIGHTS, 4, "npo+pd", (*EAGER, *SGD, "step=sam", "step.rho=0.5", *DUAL)),
    "smooth": (CPUS[:1], 4, "klpd", (*EAGER, *SGD, "step=smooth", "step.std=0.005")),
    "tamper": (CPUS[1:2], 4, "npo", (*EAGER, *SGD, "step=tamper", "step.inner_lr=0.05")),
    "average": (CPUS[::2], 4, "klpd", (*EAGER, *SGD, "step=average", "step.last=1.0")),
    "stopped": (CPUS, 4, "ga", STOPPED),
    "whole": (CPUS, 4, "npo+pd", STATE),
    "gone_on": (CPUS, 4, "npo+pd", (*STATE, "resume_from_checkpoint={folder}/whole/checkpoint-2")),
    "sines": (("fsdp2",), 4, "klpd", SINES),
    "sines_on": (("fsdp2",), 4, "klpd", (*SINES, "resume_from_checkpoint={folder}/sines/checkpoint-2")),
    "bfloat16": (tuple(GPUS), 4, "klpd", NARROW),
    "kept": (tuple(GPUS), 4, "gdpd", DROPPED),
    "redrawn": (tuple(GPUS), 4, "gdpd", (*DROPPED, "gradient_checkpointing=true")),
}
OTHERS = (("cpu_ddp", "qwen3_vl", "klpd"), ("cpu_zero2", "smolvlm", "popd"), ("fsdp2", "gemma3", "klpd"))
OTHERS += (("fsdp2", "internvl", "popd"), ("cpu_ddp", "qwen3_5", "klpd"), ("cpu_zero3", "gemma4", "popd"))
for engine, family, method in OTHERS:
    given = [f"{key}={FAMILIES / family / file}" for key, file in FAMILY_FILES.items()] + ["LoRA.r=4", "LoRA.alpha=16"]
    RUNS[f"{family}_{method}"] = ((engine,), 4, method, (*TWO, *given))


def runs_of(engine):
    """The names of what an engine trains."""
    return [name for name, (engines, *_) in RUNS.items() if engine in engines]


def words_of(name, folder, *more, processes=2, start=""):
    """The words of `forget.py` for a run into `folder`, on what is recorded."""
    _, items, method, given = RUNS[name]
    plans = (CONFORMANCE / kind / f"{method.replace('+', '_')}.json" for kind in ("training", "methods"))
    words = [
        *("recipe=official", f"forget_loss={method}", "LoRA.dropout=0", "num_epochs=1", "dtype=float32", "workers=0"),
        f"plan={next((plan for plan in plans if plan.exists()), None)}",
        f"init_adapter={CONFORMANCE / 'initial_adapter.safetensors'}",
        f"model_path={CONFORMANCE / 'llava-tiny'}",
        f"data_path={CONFORMANCE / 'dataset' / 'all_train.json'}",
        f"probe.data_path={CONFORMANCE / 'dataset' / 'all_val.json'}",
        f"save_dir={folder}",
        f"gradient_accumulation_steps={items // processes}",
        *(*given, *more),
    ]
    return [word.replace("{folder}", str(folder.parent)).replace("{start}", str(start)) for word in words]


def told(folder):
    """What a run says of itself."""
    return json.loads((folder / "run.json").read_text())


def logged(folder, key):
    """A column of a run's log; empty values where it has none."""
    return [row.get(key, {}) for row in read_lines(folder / "train_log.jsonl")]


def adapter(folder):
    """What a run has trained, by name."""
    return load_file(folder / "adapter_model.safetensors")


def farthest(one, two):
    """The largest difference between the parameters of two adapters."""
    one, two = adapter(one), adapter(two)
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


def assert_held(folder, begun, dtype=torch.float32):
    """What the mask holds is what it was at the start, in the dtype that the engine starts from; the rest has moved."""
    mask, after, before = load_file(folder / MASK_FILE), adapter(folder), adapter(begun)
    assert len(mask) == 28
    for name, trains in mask.items():
        value, was = (each[name.replace(".default", "")] for each in (after, before))
        was = was.to(dtype).float()
        assert torch.equal(value[~trains], was[~trains]), name
        assert (value[trains] != was[trains]).float().mean() > 0.9, name


def assert_stopped(folder):
    """A bound ended the run, and what is kept is the adapter of the last step whose losses were good."""
    (sitting,) = told(folder)["sittings"]
    good = sitting["stopped"]["adapter_of_step"]
    assert sitting["stopped"]["reason"].startswith("stop.forget_loss=9: the term forget is ")
    assert sitting["to_step"] == good + 2
    assert farthest(folder, folder / f"checkpoint-{good}") == 0 < farthest(folder, folder / f"checkpoint-{good + 1}")


def assert_gone_on(whole, on):
    """The run that began at the whole one's checkpoint ended as that did, to the bit."""
    assert (told(on)["sittings"][0]["from_step"], told(on)["optimizer_steps"]) == (2, 4)
    assert farthest(whole, on) == 0 < farthest(whole, whole / "checkpoint-2")
    for name in ("train_log.jsonl", "probe.jsonl"):
        rows = read_lines(on / name)
        assert rows and rows == [row for row in read_lines(whole / name) if row["step"] > 2], name
