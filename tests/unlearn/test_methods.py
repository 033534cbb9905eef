"""The terms of each method, how their weights are set and follow their losses, and the settings that are refused."""

from importlib import reload
from pathlib import Path

import matplotlib
import pytest
from helpers import MODEL, config, read_beside, read_lines, refusal

from safeeraser.benchmark.methods import pages
from safeeraser.unlearn import plot
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.objective.method import Dual, Method, Ramp
from safeeraser.unlearn.objective.objective import Weights
from safeeraser.unlearn.objective.step import STEPS, Plain, Sam
from safeeraser.unlearn.plot import probe_panels, training_panels

from .built import built, checked

# For each method its title, with "*" if it needs the reference, and its terms: weight, loss (views, parameters).
GOLDEN = Path(__file__).with_name("golden")
SHIPPED = dict(line.split(" = ") for line in (GOLDEN / "methods.txt").read_text().splitlines())
REFUSED = read_beside(__file__, "golden/refused_methods.yaml")
WEIGHTS = read_beside(__file__, "golden/weights.yaml")


def written(read):
    """A run's method in one line."""
    terms = [
        f"{name} {f'{term.weight:g}' if isinstance(term.weight, float) else term.weight} "
        f"{term.loss}({' '.join([*term.views, *(f'{key}={value}' for key, value in term.parameters.items())])})"
        for name, term in read.method.terms.items()
    ]
    return f"{read.title}{'*' * read.method.needs_reference}: {', '.join(terms)}"


def test_each_shipped_method_has_a_line():
    assert {name.removesuffix("+pd") for name in SHIPPED} == {*pages()}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_method_has_its_terms_weights_and_parameters(name):
    read = checked(name)
    assert (read.method.name, written(read)) == (name, SHIPPED[name])
    assert read.method.top == {"rmu": 7, "rr": 19}.get(name)


def test_names_of_the_release_and_positions_of_a_recipe():
    assert checked("idk").method == checked("po").method and checked("idkpd").method == checked("popd").method
    kl = config("forget_loss=kl", "recipe=corrected", f"model_path={MODEL}")
    assert read_settings(kl).method.terms["kl"].positions == "answer"
    assert checked("kl").method.terms["kl"].positions == "all"
    assert str(checked("idkpd").save_dir) == "results/llava-1.5/popd"
    assert checked("npo", "pd=0.5").save_dir == checked("npo+pd").save_dir


@pytest.mark.parametrize(("name", "text", "term", "weight"), WEIGHTS["set"])
def test_a_weight_is_set_in_each_of_its_places(name, text, term, weight):
    method = checked(name, text).method
    if isinstance(weight, dict):
        weight = Ramp(**weight) if "to" in weight else Dual(**weight)
    weights = {each: value.weight for each, value in method.terms.items()}
    assert weights == {each: value.weight for each, value in checked(name).method.terms.items()} | {term: weight}
    assert method.moving == ({} if isinstance(weight, int | float) else {term: weight})


def test_steps_and_masks_are_read_and_recorded():
    assert checked("gd").step == Plain() and checked("gd").mask is None
    titles = [checked("npo", f"step.name={name}").title for name in STEPS]
    assert titles == ["NPO", "NPO+SAM", "NPO+RS", "NPO+Tamper", "NPO+WA"]
    read = checked("pdu", "pd=1 step.name=sam step.rho=0.5 mask.top=0.3 mask.from=refusal")
    told = read.model_dump(mode="json")
    assert told["step"] == {"name": "sam", "terms": "forget", "rho": 0.5}
    assert told["mask"] == {"top": 0.3, "from": "refusal", "against": "retain", "items": 32}
    assert read.views == ["forget", "retain", "decoupled", "refusal"] and "refusal" not in read.method.views
    assert read_settings(from_keys(told)).model_dump(mode="json") == told and read.step == Sam(rho=0.5)
    # An earlier version had none of these keys, but `tune_mm_projector` in place of `projector`.
    earlier = {key: value for key, value in told.items() if key not in ("step", "mask", "projector")}
    read = read_settings(from_keys(earlier | {"tune_mm_projector": False}))
    assert (read.step, read.mask, read.projector) == (Plain(), None, "frozen")


@pytest.mark.parametrize(("says", "text"), [(says, text) for says, texts in REFUSED.items() for text in texts])
def test_what_makes_no_sense_is_refused_by_its_key(says, text):
    name, _, rest = text.partition(" ")
    line, key = refusal(checked, name, rest), rest.split()[-1].partition("=")[0]
    assert line.startswith("config: ") and says in line and "\n" not in line
    assert key in line or (key.rpartition(".")[0] or key.partition(".")[0]) in line


@pytest.mark.parametrize(("dual", "losses", "expected"), WEIGHTS["follow"])
def test_a_weight_moves_by_how_far_its_loss_lies_above_the_bound(dual, losses, expected):
    terms = {"forget": {"loss": "flat", "views": ["forget"], "weight": -1.0}}
    terms |= {"retain": {"loss": "nll", "views": ["retain"], "weight": dual}}
    weighs, found = Weights(Method.model_validate({"name": "mine", "terms": terms})), []
    assert weighs["retain"] == dual.get("start", 1.0) and weighs.of_step == {}
    for loss in losses:
        weighs.on_losses({"loss": 99.0, "forget": 99.0, "retain": loss})
        found.append(weighs["retain"])
    assert found == expected and weighs["forget"] == -1.0
    assert weighs.of_step == {"retain": expected[-2]}  # the weight that the last step used


def test_a_run_weighs_its_terms_so_logs_it_and_draws_it(tmp_path):
    """An answer's loss on the tiny model is near 7, so one dual weight grows and one falls to 0. The ramp is linear."""
    bounds = {"forget_loss.terms.retain.weight": {"at_most": 6, "rate": 0.5, "start": 2}}
    bounds["forget_loss.terms.forget.weight"] = {"from": 1, "to": 2.5}
    built(tmp_path, "pdu", bounds | {"pd": {"at_most": 10, "rate": 0.25}}, steps=3).train()
    rows, retain, decoupled = read_lines(tmp_path / "train_log.jsonl"), 2.0, 1.0
    for row, forget in zip(rows, (1.0, 1.5, 2.0), strict=True):
        terms = row["terms"]
        assert row["weights"] == {"forget": forget, "retain": retain, "decoupled": decoupled}
        total = forget * terms["forget"] + retain * terms["retain"] + decoupled * terms["decoupled"]
        assert row["loss"] == pytest.approx(total, rel=1e-6)
        retain = max(0.0, retain + 0.5 * (terms["retain"] - 6))
        decoupled = max(0.0, decoupled + 0.25 * (terms["decoupled"] - 10))
    assert rows[-1]["weights"]["retain"] > 2 and rows[-1]["weights"]["decoupled"] == 0
    panels = {title: curves[""] for title, _, curves in training_panels(tmp_path / "train_log.jsonl")}
    assert panels["weight of retain"] == [row["weights"]["retain"] for row in rows]
    assert panels["weight of forget"] == [1.0, 1.5, 2.0] and "weight of decoupled" in panels


def test_a_run_resumed_from_before_its_first_probe_is_drawn_without_probes(tmp_path):
    log, probes = tmp_path / "train_log.jsonl", tmp_path / "probe.jsonl"
    log.write_text('{"step": 1, "loss": 2.0, "grad_norm": 1.0, "learning_rate": 0.1, "terms": {"forget": 2.0}}\n')
    for rows, panels in (('{"step": 0, "forget": {"refusal": 0.5, "degenerate": 0, "length": 3}}\n', 7), ("", 4)):
        probes.write_text(rows)
        assert len([*training_panels(log), *probe_panels(probes)]) == panels


def test_a_notebooks_plots_stay_its_own_affair():
    matplotlib.use("svg")
    reload(plot)  # an earlier version chose a backend for the entire process
    assert matplotlib.get_backend() == "svg"
