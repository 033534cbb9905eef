"""The figures recorded with other losses' own implementations, on the release's data, plan and initial adapter.

They lie in tests/data/conformance/methods, or beside the release's (see test_release.py), whose README tells how they
were recorded.
"""

from statistics import fmean

import pytest
from helpers import RECORDED, read_lines, run

from safeeraser.unlearn.terms import LOSSES

from .test_release import CONFORMANCE, recorded

NAMES = sorted(file.stem for file in (RECORDED / "methods").glob("*.json"))
WEIGHTS = ("forget", "retain")
ACCUMULATION = 4
# A loss of answers' whole likelihoods: two sums of NLL, of which each is exact in float32 to 1.5e-5 at best. Nor does a
# plain loop with the same libraries come nearer.
SUMMED = 5e-6
# What another CPU's order of summing may move: of RMU's losses, which are near 50, float32 has 4e-6 between neighbours.
ROUNDED = 1e-6


def words(name):
    """What of a command line the figures of `name` were recorded with."""
    told = recorded(f"methods/{name}.json")
    method, given = told["method"], told["hyperparameters"]
    yield f"forget_loss={method}"
    for key, value in given.items():
        if key not in WEIGHTS:
            yield f"forget_loss.terms.forget.{key}={value}"
        elif value:
            yield f"forget_loss.terms.{key}.weight={value}"
    if "control_vector" in told:
        yield f"forget_loss.terms.forget.control_vector=methods/{name}.json"
    if told["prompt_decouple"]:
        yield "pd=1.0"


def test_each_method_is_recorded_with_and_without_prompt_decouple():
    plain = [name for name in NAMES if not name.endswith("_pd")]
    assert plain == ["ceu", "dpo", "npo", "rmu", "satimp", "simnpo", "undial", "wga"]
    assert sorted([*plain, *(f"{name}_pd" for name in plain)]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_training_follows_the_recorded_figures(tmp_path, name):
    done = run(
        "forget",
        "recipe=official",
        f"plan=methods/{name}.json",
        "init_adapter=initial_adapter.safetensors",
        "LoRA.dropout=0",
        f"gradient_accumulation_steps={ACCUMULATION}",
        "num_epochs=1",
        "dtype=float32",
        "attention=eager",
        *words(name),
        "model_path=llava-tiny",
        "data_path=dataset/all_train.json",
        f"save_dir={tmp_path / name}",
        "workers=0",
        cwd=CONFORMANCE,
    )
    assert done.returncode == 0, done.stderr
    assert_follows(tmp_path / name, name)


def assert_follows(folder, name):
    """`folder` holds a run whose figures are the recorded ones."""
    expected, rows = recorded(f"methods/{name}.json"), read_lines(folder / "train_log.jsonl")
    steps, rel = expected["steps"], SUMMED if LOSSES[expected["method"]].reference == "nll" else ROUNDED
    losses = [loss for row in rows for loss in row["micro_losses"]]
    assert len(losses) == len(steps) == 48
    assert losses == pytest.approx([step["loss"] for step in steps], abs=1e-5, rel=rel)
    for number, row in enumerate(rows):
        some = steps[ACCUMULATION * number : ACCUMULATION * (number + 1)]
        means = {term: fmean(step["terms"][term] for step in some) for term in some[0]["terms"]}
        assert row["terms"] == pytest.approx(means, abs=1e-5, rel=rel)
    norms = [row["grad_norm"] for row in rows]
    assert len(norms) == 12
    assert norms == pytest.approx(expected["grad_norms"], rel=1e-4, abs=0)
