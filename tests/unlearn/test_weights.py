"""Weights that follow their terms' losses: by hand, on the command line, in a run and what tells of it, and resumed."""

import json
import math
import re
import shlex
import shutil
import signal
import time

import matplotlib.pyplot as plt
import pytest
from helpers import MODEL, ROOT, TRAIN, read_lines, run, settings, start, write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.methods import Dual, Method
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.plot import training_panels
from safeeraser.unlearn.weights import DUALS, Weights

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "gradient_accumulation_steps=2")
# On the tiny model an answer's loss is near 7, so that at these bounds one weight grows and the other falls to 0.
PDU = ("forget_loss=pdu", "forget_loss.terms.retain.weight={at_most: 6, rate: 0.5, start: 2}")
PDU += ("pd={at_most: 10, rate: 0.125}",)
PAGE = (ROOT / "docs" / "methods.md").read_text()


def weights(**duals):
    terms = {"forget": {"loss": "flat", "views": ["forget"], "weight": -1.0}}
    terms |= {name: {"loss": "nll", "views": ["retain"], "weight": weight} for name, weight in duals.items()}
    return Weights(Method.model_validate({"name": "mine", "terms": terms}))


def moved(weighs, *losses):
    """The weight of `retain` after steps with these losses of it."""
    found = []
    for loss in losses:
        weighs.follow({"loss": 99.0, "forget": 99.0, "retain": loss})
        found.append(weighs["retain"])
    return found


def test_a_weight_moves_by_how_far_its_loss_lies_above_the_bound():
    weighs = weights(retain={"at_most": 0.5, "rate": 2.0, "start": 1.0})
    assert weighs["retain"] == 1.0 and weighs.of_step == {}
    # 1 + 2 (1 - 0.5); 2 + 2 (0.25 - 0.5); 1.5 + 2 (0.75 - 0.5).
    assert moved(weighs, 1.0, 0.25, 0.75) == [2.0, 1.5, 2.0]
    assert weighs.of_step == {"retain": 1.5}  # with which the third step was taken
    assert weighs["forget"] == -1.0


def test_a_weight_that_reaches_0_stays_there_and_comes_back():
    weighs = weights(retain={"at_most": 0.5, "rate": 2.0, "start": 0.25})
    # 0.25 - 0.5 is less than 0; so is 0 - 0.5; at the bound nothing moves; what went below is not owed.
    assert moved(weighs, 0.25, 0.25, 0.5, 0.75, 0.75) == [0.0, 0.0, 0.0, 0.5, 1.0]


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_moves_nothing(loss):
    assert moved(weights(retain={"at_most": 0.5, "start": 3.0}), loss, 1.5) == [3.0, 4.0]


def test_only_dual_weights_move_each_by_its_own_term():
    weighs = weights(a={"at_most": 1, "start": 0}, b={"at_most": -1, "rate": 0.5}, c=2.0)
    weighs.follow({"loss": 9.0, "forget": 9.0, "a": 2.0, "b": 2.0, "c": 9.0})
    assert [weighs[name] for name in ("forget", "a", "b", "c")] == [-1.0, 1.0, 2.5, 2.0]
    assert weighs.of_step == {"a": 0.0, "b": 1.0}


def test_dual_weights_are_kept_to_the_bit(tmp_path):
    dual = {"at_most": 0.1, "rate": 0.3, "start": 1 / 3}
    first, second = weights(retain=dual), weights(retain=dual)
    moved(first, 0.7, 1.1)
    first.save(tmp_path)
    second.resume(tmp_path)
    assert second["retain"] == first["retain"] != 1 / 3 and moved(first, 0.2) == moved(second, 0.2)
    # Of numbers there is nothing to keep.
    weights(retain=1.0).save(tmp_path / "none")
    weights(retain=1.0).resume(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for wrong in ({}, {"retain": "1"}):
        write_json(tmp_path / DUALS, wrong)
        with pytest.raises(BadInput, match=r"duals\.json: no weight of the term retain"):
            second.resume(tmp_path)


DUAL = Dual(at_most=2, rate=0.5, start=0)
WORD = "{at_most: 2, rate: 0.5, start: 0}"


@pytest.mark.parametrize(
    ("words", "term", "weight"),
    [
        (("pdu",), "retain", Dual(at_most=0.5, rate=1, start=1)),
        (("pdu", "forget_loss.terms.retain.weight.at_most=2"), "retain", Dual(at_most=2, rate=1, start=1)),
        (("gd", f"forget_loss.terms.retain.weight={WORD}"), "retain", DUAL),
        (("gd", f"retain={WORD}"), "retain", DUAL),
        (("gd", f"recipe.weights.retain={WORD}"), "retain", DUAL),
        (("gd", f"recipe.weights.forget={WORD}"), "forget", DUAL),
        (("npo", f"pd={WORD}"), "decoupled", DUAL),
        (("npo+pd", "pd={at_most: 2}"), "decoupled", Dual(at_most=2, rate=1, start=1)),
        (("gdpd", f"forget_loss.terms.decoupled.weight={WORD}"), "decoupled", DUAL),
        # A number takes the place of a dual, and a dual that of another, whole.
        (("pdu", "retain=0.25"), "retain", 0.25),
        (("pdu", "forget_loss.terms.retain.weight=0.25"), "retain", 0.25),
        (("pdu", "recipe.weights.retain=0.25"), "retain", 0.25),
        (("pdu", "retain={at_most: 2}"), "retain", Dual(at_most=2)),
        (("npo", f"pd={WORD}", "recipe.weights.decoupled=2"), "decoupled", 2.0),
    ],
)
def test_any_terms_weight_may_be_one_wherever_weights_are_given(words, term, weight):
    name, *more = words
    read = settings(f"forget_loss={name}", *more)
    assert read.method.terms[term].weight == weight
    assert read.method.duals == ({term: weight} if isinstance(weight, Dual) else {})
    told = read.model_dump(mode="json")
    assert read_settings(from_keys(told)).model_dump(mode="json") == told


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("retain={at_most: 1, rate: 0}",), "retain.rate=0: Input should be greater than 0"),
        (("pd={at_most: 1, rate: -1}",), "pd.rate=-1: Input should be greater than 0"),
        (("retain={at_most: 1, start: -1}",), "retain.start=-1: Input should be greater than or equal to 0"),
        (("retain={at_most: inf}",), "retain.at_most=inf: Input should be a finite number"),
        (("retain={at_most: much}",), "retain.at_most=much: Input should be a valid number"),
        (("retain={rate: 1}",), "retain.at_most={'rate': 1}: Field required"),
        (("pd={at_mots: 1}",), "no key 'pd.at_mots'; did you mean 'at_most'?"),
        (("retain={at_most: 1, rat: 1}",), "no key 'retain.rat'; did you mean 'rate'?"),
        (
            ("forget_loss.terms.forget.weight={at_most: 1, strat: 1}",),
            "no key 'forget_loss.terms.forget.weight.strat'; did you mean 'start'?",
        ),
        (("recipe.weights.kl={at_most: 1, ratee: 1}",), "no key 'recipe.weights.kl.ratee'; did you mean 'rate'?"),
        (("recipe.weights.kl={at_most: 1, rate: 0}",), "recipe.weights.kl.rate=0: Input should be greater than 0"),
        (("forget_loss.terms.forget.weight=a",), "forget_loss.terms.forget.weight=a: Input should be a valid number"),
        (("pd=inf",), "pd=inf: Input should be a finite number"),
        (("forget_loss=kl", "retain={at_most: 1}"), "kl has no term retain, but forget, kl"),
    ],
)
def test_a_dual_that_makes_no_sense(words, says):
    with pytest.raises(BadInput) as error:
        settings("forget_loss=gd", *words)
    assert str(error.value).startswith("config: ") and says in str(error.value)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight steps of PDU with a dual weight on both nll terms, and checkpoints on the way."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    forget(folder)
    return folder


WORDS = (*GIVEN, *PDU, "max_train_steps=8", "save_steps=2", "save_total_limit=9")


def forget(folder, *more):
    done = run("forget", *WORDS, f"save_dir={folder}", *more)
    assert done.returncode == 0, done.stderr


def same_bytes(one, two):
    return all((one / name).read_bytes() == (two / name).read_bytes() for name in RESULTS)


RESULTS = ("adapter_model.safetensors", "train_log.jsonl", "training.png", "checkpoint-8/duals.json")


@pytest.mark.slow
def test_a_run_weighs_its_terms_so_and_logs_it(whole):
    rows, retain, decoupled = read_lines(whole / "train_log.jsonl"), 2.0, 1.0
    assert len(rows) == 8
    for row in rows:
        assert row["weights"] == {"retain": retain, "decoupled": decoupled}
        terms = row["terms"]
        total = terms["forget"] + retain * terms["retain"] + decoupled * terms["decoupled"]
        assert row["loss"] == pytest.approx(total, rel=1e-6)
        retain = max(0.0, retain + 0.5 * (terms["retain"] - 6))
        decoupled = max(0.0, decoupled + 0.125 * (terms["decoupled"] - 10))
    assert json.loads((whole / "checkpoint-8" / DUALS).read_text()) == {"retain": retain, "decoupled": decoupled}
    assert rows[-1]["weights"]["retain"] > 2 and rows[-1]["weights"]["decoupled"] == 0


@pytest.mark.slow
def test_the_curves_have_them(whole):
    panels = {title: curves[""] for title, _, curves in training_panels(whole / "train_log.jsonl")}
    rows = read_lines(whole / "train_log.jsonl")
    assert panels["weight of retain"] == [row["weights"]["retain"] for row in rows]
    assert panels["weight of decoupled"][-1] == 0 and "weight of forget" not in panels


@pytest.mark.slow
def test_the_report_and_the_card_tell_them(whole):
    from safeeraser.report.model_card import write_card
    from safeeraser.report.plots import curves
    from safeeraser.report.runs import read_run

    text = write_card(whole).read_text()
    assert "pdu+pd: 1 × forget (flat on forget), dual (at most 6, rate 0.5, from 2) × retain (nll on retain)" in text
    assert "dual (at most 10, rate 0.125, from 1) × decoupled" in text
    (drawn,) = (plot for plot in curves([read_run(whole)]) if plot.name.startswith("training_"))
    assert re.search(r"The weight of retain goes from 2 to \d", drawn.description)
    assert "The weight of decoupled goes from 1 to 0." in drawn.description
    plt.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("step", [2, 6])
def test_a_run_resumed_from_a_checkpoint_ends_alike(whole, tmp_path, step):
    forget(tmp_path / "resumed", f"resume_from_checkpoint={whole / f'checkpoint-{step}'}")
    rows = read_lines(whole / "train_log.jsonl")
    assert read_lines(tmp_path / "resumed" / "train_log.jsonl") == rows[step:]
    assert all((tmp_path / "resumed" / name).read_bytes() == (whole / name).read_bytes() for name in RESULTS[::3])


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_bit(whole, tmp_path):
    killed = tmp_path / "killed"
    process = start("forget", *WORDS, f"save_dir={killed}")
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-4").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(killed / "checkpoint-8", ignore_errors=True)  # should it have been that quick
    forget(killed, "resume_from_checkpoint=auto")
    assert same_bytes(whole, killed)


@pytest.mark.slow
def test_another_bound_is_another_run(whole, tmp_path):
    words = (*WORDS, f"save_dir={tmp_path / 'other'}", f"resume_from_checkpoint={whole / 'checkpoint-2'}")
    done = run("forget", *words, "forget_loss.terms.retain.weight.at_most=5")
    assert done.returncode == 2
    assert "another forget_loss.terms.retain.weight.at_most (6.0, now 5.0)" in done.stderr


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path):
    """As they stand there, in a dry run; it tells of the weights."""
    part = PAGE.partition("\n## A weight that follows its loss\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^ {4}python forget.py (.*)$", part, re.MULTILINE)
    told = []
    for words in map(shlex.split, commands):
        done = run("forget", *words, *GIVEN, f"save_dir={tmp_path / 'run'}", "dry_run=true")
        assert done.returncode == 0, (words, done.stderr)
        told += re.findall(r"^The weight of .*$", done.stdout, re.MULTILINE)
    assert told == [
        "The weight of retain follows its loss: dual (at most 1.2, rate 1, from 50).",
        "The weight of decoupled follows its loss: dual (at most 1, rate 0.5, from 1).",
        "The weight of retain follows its loss: dual (at most 1.2, rate 1, from 1).",
    ]
    assert not (tmp_path / "run").exists()
