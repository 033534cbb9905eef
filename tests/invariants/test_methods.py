"""The figures of other methods, recorded without this project, in tests/data/conformance/methods and methods2."""

from statistics import fmean

import pytest
from helpers import FURTHER, read_lines

from safeeraser.unlearn.objective.losses import LOSSES

from .test_release import recorded, train

OTHERS = [f"methods/{name}{pd}" for name in FURTHER for pd in ("", "_pd")]
OTHERS += [f"methods2/{name}{pd}" for name in ("jensun", "rr") for pd in ("", "_pd")]
OTHERS += ["methods2/npo_pd_tamper", "methods2/po_pd_tamper"]
# Tolerance for two float32 sums of NLL, each exact to 1.5e-5 at best: a plain loop in the same libraries is no nearer.
SUMMED = 5e-6
# Tolerance for another CPU's order of summing: RMU's losses are near 50, where neighbours in float32 are 4e-6 apart.
ROUNDED = 1e-6


def assert_follows(folder, name):
    """Assert that the run in `folder`, of another method, has the recorded figures."""
    expected, rows = recorded(f"{name}.json"), read_lines(folder / "train_log.jsonl")
    of_sums = expected["method"] in LOSSES and LOSSES[expected["method"]].reference == "nll"
    steps, rel = expected["steps"], SUMMED if of_sums else ROUNDED
    losses = [loss for row in rows for loss in row["micro_losses"]]
    assert len(losses) == 48 and losses == pytest.approx([step["loss"] for step in steps], abs=1e-5, rel=rel)
    for number, row in enumerate(rows):
        some = steps[4 * number : 4 * number + 4]
        means = {term: fmean(step["terms"][term] for step in some) for term in some[0]["terms"]}
        assert row["terms"] == pytest.approx(means, abs=1e-5, rel=rel)
    for row, step in zip(rows, expected.get("tamper", ()), strict="tamper" in expected):
        first, *_, last, _ = step["inner_losses"]  # `last`: at the weights where the gradient is taken
        moved = {"by": step["moved_by"], "relearned_from": first, "relearned_to": last}
        assert row["moved"] == pytest.approx(moved, rel=1e-5)
    norms = [row["grad_norm"] for row in rows]
    assert len(norms) == 12 and norms == pytest.approx(expected["grad_norms"], rel=1e-4, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_training_follows_each_other_method_with_and_without_prompt_decouple(tmp_path, name):
    told = recorded(f"{name}.json")
    words = [f"forget_loss={told['method']}", "attention=eager"]
    for key, value in told["hyperparameters"].items():
        if key not in ("forget", "retain"):
            words.append(f"forget_loss.terms.forget.{key}={value}")
        elif value:
            words.append(f"forget_loss.terms.{key}.weight={value}")
    if "control_vector" in told:
        words.append(f"forget_loss.terms.forget.control_vector={name}.json")
    words += [f"init_adapter={told['init_adapter']}"] if "init_adapter" in told else []
    words += [f"step{'' if key == 'name' else f'.{key}'}={value}" for key, value in told.get("step", {}).items()]
    assert told["prompt_decouple"] == ("_pd" in name)
    train(tmp_path / "run", f"{name}.json", *words, *(["pd=1.0"] if told["prompt_decouple"] else []))
    assert_follows(tmp_path / "run", name)
