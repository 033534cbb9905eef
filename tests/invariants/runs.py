"""The runs that engines train, by name, and how they are compared. Most take 2 to 6 optimizer steps."""

import json
from functools import reduce

import torch
from helpers import ROOT, read_beside, read_lines
from safetensors.torch import load_file

from safeeraser.benchmark.adapters import run_of as told
from safeeraser.unlearn.save_dir import MASK_FILE

from .test_release import CONFORMANCE

CPUS = ("cpu_ddp", "cpu_zero2", "cpu_zero3")
WHOLE_WEIGHTS = CPUS[:2]  # an engine that shards weights refuses to move or mask them
# The config files for GPUs. Their numbers: how far LoRA's B may be off in bfloat16, relative to its norm. DeepSpeed's
# gradients are in bfloat16 too. Under the other engines, another order of summing sometimes changes a rounding.
GPUS = {"ddp": 0.01, "fsdp2": 0.01, "../accelerate_config": 0.05, "zero3": 0.05}
SHARDED = "../accelerate_config"
FAMILIES = ROOT / "tests" / "data" / "families"
FAMILY_FILES = {"model_path": "model", "init_adapter": "adapter", "plan": "plan.json"}
NINE = json.loads((CONFORMANCE / "training" / "gdpd.json").read_text())["steps"][:9]
PARTS, RUNS, OTHERS = read_beside(__file__, "runs.yaml").values()
for engine, family, method in OTHERS:
    given = [f"{key}={FAMILIES / family / file}" for key, file in FAMILY_FILES.items()] + ["LoRA.r=4", "LoRA.alpha=16"]
    RUNS[f"{family}_{method}"] = [engine], 4, method, ["TWO", *given]


def spelled(words):
    """The words, with each name of a part replaced by the part's words."""
    return [each for word in words for each in (spelled(PARTS[word]) if word in PARTS else [word])]


def runs_of(engine):
    """The names of the runs that an engine trains."""
    return [name for name, (engines, *_) in RUNS.items() if engine in engines]


def words_of(name, folder, *more, processes=2, start=""):
    """The words of `forget.py` that train the run `name` into `folder`, on the recorded model and data."""
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
        *spelled(given),
        *more,
    ]
    places = {"{folder}": folder.parent, "{start}": start, "{conformance}": CONFORMANCE}
    return [reduce(lambda text, place: text.replace(place, str(places[place])), places, word) for word in words]


def logged(folder, key):
    """A column of a run's log; {} for a row without it."""
    return [row.get(key, {}) for row in read_lines(folder / "train_log.jsonl")]


def adapter(folder):
    """The parameters that a run has trained, by name."""
    return load_file(folder / "adapter_model.safetensors")


def farthest(one, two):
    """The largest difference between the parameters of two adapters."""
    one, two = adapter(one), adapter(two)
    assert one.keys() == two.keys()
    return max((one[name] - two[name]).abs().max().item() for name in one)


def assert_held(folder, begun, dtype=torch.float32):
    """Assert that held weights are as at the start, in the dtype that the engine starts from, and others have moved."""
    mask, after, before = load_file(folder / MASK_FILE), adapter(folder), adapter(begun)
    assert len(mask) == 28
    for name, trains in mask.items():
        value, was = (each[name.replace(".default", "")] for each in (after, before))
        was = was.to(dtype).float()
        assert torch.equal(value[~trains], was[~trains]), name
        assert (value[trains] != was[trains]).float().mean() > 0.9, name


def assert_stopped(folder):
    """Assert that a bound ended the run, and that it kept the adapter from before the last step with good losses."""
    (sitting,) = told(folder)["sittings"]
    good = sitting["stopped"]["adapter_of_step"]
    assert sitting["stopped"]["reason"].startswith("stop.forget_loss=9: the term forget is ")
    assert sitting["to_step"] == good + 2
    assert farthest(folder, folder / f"checkpoint-{good}") == 0 < farthest(folder, folder / f"checkpoint-{good + 1}")


def assert_gone_on(whole, on):
    """Assert that run `on`, which resumed at a checkpoint of run `whole`, ended as `whole` did, to the bit."""
    assert (told(on)["sittings"][0]["from_step"], told(on)["optimizer_steps"]) == (2, 4)
    assert farthest(whole, on) == 0 < farthest(whole, whole / "checkpoint-2")
    for name in ("train_log.jsonl", "probe.jsonl"):
        rows = read_lines(on / name)
        assert rows and rows == [row for row in read_lines(whole / name) if row["step"] > 2], name
