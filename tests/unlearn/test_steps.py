"""How optimizer steps are taken: by hand, against a loop of plain torch, resumed, killed, and what is told of them."""

import json
import math
import re
import shlex
import shutil
import signal
import time

import pytest
import torch
import torch.nn.functional as F
from helpers import MODEL, ROOT, TRAIN, config, read_lines, run, settings, start, write_json
from safetensors.torch import load_file

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.engine import Engine, check_engine
from safeeraser.unlearn.mean import MEAN
from safeeraser.unlearn.moved import seed_of
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.steps import Plain, Sam, Smooth, taken

from .test_trainer import Gradients, trainer

STEPS = ("plain", "sam", "smooth", "average")
GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "gradient_accumulation_steps=2")
PAGE = (ROOT / "docs" / "methods.md").read_text()


# By hand.


def test_sam_moves_uphill_by_rho():
    """Of (x² + y²) / 2 at (3, 4) the gradient is (3, 4), of length 5."""
    x, y = torch.tensor([3.0]), torch.tensor([[4.0]])
    shift = Sam(rho=0.5).shift(lambda: [x.clone(), y.clone()], [x, y], 0)
    assert shift.told == {"ascent": 5.0}
    assert torch.allclose(shift.by[0], torch.tensor([0.3])) and torch.allclose(shift.by[1], torch.tensor([[0.4]]))


@pytest.mark.parametrize("gradient", [0.0, math.nan, math.inf])
def test_a_gradient_that_is_zero_or_not_finite_moves_nothing(gradient):
    x = torch.tensor([gradient])
    shift = Sam(rho=0.5).shift(lambda: [x], [x], 0)
    assert shift.by is None and shift.told["ascent"] == pytest.approx(gradient, nan_ok=True)


def test_noise_is_the_seeds_alone():
    like = [torch.zeros(300, 40), torch.zeros(7, dtype=torch.bfloat16)]
    first, again, other = (Smooth(std=0.5).shift(None, like, seed).by for seed in (1, 1, 2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))
    assert first[0].std().item() == pytest.approx(0.5, rel=0.02) and abs(first[0].mean().item()) < 0.02
    assert first[1].dtype is torch.float32 and not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("share", "steps", "counts"),
    [(0.0, 4, [0, 0, 0, 0]), (0.5, 4, [0, 0, 1, 2]), (1.0, 3, [1, 2, 3]), (0.01, 3, [0, 0, 1])],
)
def test_of_how_many_steps_the_mean_is(share, steps, counts):
    assert [taken(share, step, steps) for step in range(1, steps + 1)] == counts


@pytest.mark.parametrize(
    ("words", "terms"),
    [
        (("ga",), ["forget"]),
        (("klpd",), ["forget"]),
        (("dpo",), ["forget"]),
        (("po",), ["preference"]),
        (("popd",), ["preference"]),
        (("npo", "pd=1"), ["forget"]),
        (("npo", "pd=1", "step.terms=all"), ["forget", "retain", "decoupled"]),
        (("none", "step.terms=all"), ["retain"]),
    ],
)
def test_which_terms_make_the_model_forget(words, terms):
    name, *more = words
    assert settings(f"forget_loss={name}", "step=sam", *more).moved_terms == terms
    assert settings(f"forget_loss={name}", "step=average").moved_terms == []


# On the command line.


def test_the_default_is_plain_and_a_page_is_read_as_it_was_written():
    assert settings().step == Plain() and settings().title == "PO+PD"
    for name, title in zip(STEPS[1:], ("NPO+PD+SAM", "NPO+PD+RS", "NPO+PD+WA"), strict=True):
        read = settings("forget_loss=npo+pd", f"step={name}")
        told = read.model_dump(mode="json")
        assert read.step.name == name and read.title == title
        assert read_settings(from_keys(told)).model_dump(mode="json") == told
    given = {"model_path": str(MODEL), "step": {"name": "sam", "rho": 0.5}}
    assert read_settings(from_keys(given)).step == Sam(rho=0.5)
    # An earlier version had no such key.
    del told["step"]
    assert read_settings(from_keys(told)).step == Plain()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("step=sam", "step.rho=-1"), "step.rho=-1: Input should be greater than or equal to 0"),
        (("step=sam", "step.rho=inf"), "step.rho=inf: Input should be a finite number"),
        (("step=sam", "step.terms=retain"), "step.terms=retain: Input should be 'forget' or 'all'"),
        (("step=smooth", "step.std=little"), "step.std=little: Input should be a valid number"),
        (("step=average", "step.last=0"), "step.last=0: Input should be greater than 0"),
        (("step=average", "step.last=1.5"), "step.last=1.5: Input should be less than or equal to 1"),
        (("+step.roh=1", "step=sam"), "step.roh=1: the step sam has no such key; did you mean 'rho'?"),
        (("step.name=sma",), "no step 'sma'; did you mean 'sam'?"),
        (("step.name=[sam]",), "no step '['sam']'; did you mean 'sam'?"),
        (("step=smooth", "forget_loss=none"), "step.terms=forget: no term of none reads forget or refusal"),
    ],
)
def test_a_step_that_makes_no_sense(words, says):
    with pytest.raises(BadInput) as error:
        read_settings(config(f"model_path={MODEL}", *words))
    assert str(error.value).startswith("config: ") and says in str(error.value)


def test_a_mistyped_key_on_the_command_line(tmp_path):
    done = run("forget", *GIVEN, "step=null")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "error: command line: Config group" in done.stderr
    done = run("forget", *GIVEN, "step=sam", "step.roh=1", f"save_dir={tmp_path / 'run'}")
    assert done.returncode == 2 and "no key 'step.roh'; did you mean 'step.rho'?" in done.stderr


@pytest.mark.parametrize("step", ["sam", "smooth"])
def test_what_cannot_move_weights_is_refused(step):
    for engine in ("zero3", "fsdp"):
        with pytest.raises(BadInput, match=f"step={step}: moves the weights, of which {engine} gives each process"):
            check_engine(Engine(engine, 2), settings(f"step={step}"), items=8)
        check_engine(Engine(engine, 2), settings("step=average"), items=8)
    for given, engine in (("float16", Engine()), ("auto", Engine(mixed_precision="fp16"))):
        with pytest.raises(BadInput, match=f"step={step}: not in float16"):
            check_engine(engine, settings(f"step={step}", f"dtype={given}"), items=8)
    for engine in ("single", "ddp", "zero1", "zero2"):
        check_engine(Engine(engine, 2), settings(f"step={step}"), items=8)


@pytest.mark.slow
def test_the_dry_run_tells(tmp_path):
    given = (*GIVEN, "forget_loss=klpd", "max_train_steps=8", f"save_dir={tmp_path / 'run'}", "dry_run=true")
    told = {step: run("forget", *given, f"step={step}").stdout for step in STEPS}
    more = "more pass{}, forward and backward, over forget."
    assert "The step" not in told["plain"]
    assert f"The step sam takes the gradient of forget at moved weights: 2 {more.format('es')}" in told["sam"]
    assert f"The step smooth takes the gradient of forget at moved weights: 1 {more.format('')}" in told["smooth"]
    assert "The step average keeps the mean of the weights after the last 2 of 8 optimizer steps." in told["average"]
    for step in STEPS:
        assert ("weights before they are moved" in told[step]) == (step in ("sam", "smooth"))
        assert ("mean of the last weights" in told[step]) == (step == "average")
    engine = f"engine={ROOT / 'config' / 'accelerate' / 'cpu_zero3.yaml'}"
    refused = run("forget", *given, "step=sam", engine)
    assert refused.returncode == 2 and "error: step=sam: moves the weights" in refused.stderr
    assert not (tmp_path / "run").exists()


# Against a loop of plain torch.


def answer_logits(model, join, row):
    """The logits that predict an answer, and its tokens."""
    labels = torch.tensor(row.labels[1:])
    return model(**join([row])).logits[0, :-1][labels != IGNORE], labels[labels != IGNORE]


def values_by_hand(model, join, rows):
    """What the terms of GD, KL+PD, NPO and PO need of an item, from the rows of its views."""
    found = {view: answer_logits(model, join, row) for view, row in rows.items()}
    with torch.no_grad(), model.disable_adapter():
        untouched = {view: answer_logits(model, join, row)[0] for view, row in rows.items()}
    nll = {view: F.cross_entropy(*each, reduction="none") for view, each in found.items()}
    values = {view: each.mean() for view, each in nll.items()}
    if "refusal" in nll:
        values["preference"] = torch.cat([nll["refusal"], nll["retain"]]).mean()
    if "forget" in nll:
        before = F.cross_entropy(untouched["forget"], found["forget"][1], reduction="none")
        values["npo"] = -2 / 0.1 * F.logsigmoid(0.1 * (nll["forget"] - before).sum())
    p, q = (torch.log_softmax(each["retain"], -1) for each in (untouched, {"retain": found["retain"][0]}))
    values["kl"] = (p.exp() * (p - q)).sum(-1).mean()
    return values


# The weight of each term: those that make the model forget, and the others.
BY_HAND = {
    "gd": ({"forget": -1.0}, {"retain": 1.0}),
    "klpd": ({"forget": -1.0}, {"kl": 1.0, "decoupled": 1.0}),
    "npo+pd": ({"npo": 1.0}, {"retain": 1.0, "decoupled": 1.0}),
    "popd": ({"preference": 1.0}, {"decoupled": 1.0}),
}


class ByHand:
    """Gradients of a trainer's plan, an item after the other."""

    def __init__(self, built, items):
        self.model, self.join = built.model.train(), built.train_dataset.preprocessor.join
        self.trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
        self.items = [{each.view: each.row for each in built.train_dataset[k]} for k in range(items)]

    def gradient(self, weights):
        total = 0
        for rows in self.items:
            values = values_by_hand(self.model, self.join, rows)
            total = total + sum(weight * values[name] for name, weight in weights.items()) / len(self.items)
        return torch.autograd.grad(total, [*self.trained.values()])

    @torch.no_grad()
    def move(self, by, sign=1):
        for each, shift in zip(self.trained.values(), by, strict=True):
            each.add_(shift, alpha=sign)


def step_gradient(folder, method, *words, batch=2, accumulation=2):
    kept = Gradients()
    shape = (f"batch_size={batch}", f"gradient_accumulation_steps={accumulation}", "max_train_steps=1")
    given = (f"forget_loss={method}", "recipe.kl_positions=answer", *shape, *words)
    built = trainer(folder, *given, callbacks=[kept])
    built.train()
    (gradient,) = kept.steps
    return gradient, read_lines(folder / "train_log.jsonl")[0]


def far(some, others):
    """How far two gradients are apart, as a share of the second's length."""
    apart = sum((some[name] - others[name]).square().sum() for name in others) ** 0.5
    return (apart / sum(each.square().sum() for each in others.values()) ** 0.5).item()


@pytest.mark.slow
@pytest.mark.parametrize("terms", ["forget", "all"])
@pytest.mark.parametrize("method", BY_HAND)
@pytest.mark.parametrize("step", ["sam", "smooth"])
def test_a_steps_gradient_is_that_of_a_plain_loop(tmp_path, step, method, terms):
    size = {"sam": ("step.rho=0.5", 0.5), "smooth": ("step.std=0.005", 0.005)}[step]
    given = (f"step={step}", size[0], f"step.terms={terms}")
    hand = ByHand(trainer(tmp_path / "hand", f"forget_loss={method}", "max_train_steps=1"), 4)
    forget, others = BY_HAND[method]
    aside = forget if terms == "forget" else forget | others
    rest = others if terms == "forget" else {}
    ascent = hand.gradient(aside)
    norm = sum(each.square().sum() for each in ascent) ** 0.5
    if step == "sam":
        by = [each / norm * size[1] for each in ascent]
    else:
        drawn = torch.Generator().manual_seed(seed_of(233, 0, 0))
        by = [torch.randn(each.shape, generator=drawn) * size[1] for each in hand.trained.values()]
    still = hand.gradient(rest) if rest else [0] * len(by)
    hand.move(by)
    expected = dict(zip(hand.trained, map(torch.add, hand.gradient(aside), still), strict=True))
    hand.move(by, -1)
    found, row = step_gradient(tmp_path / "run", method, *given)
    assert found.keys() == expected.keys() and far(found, expected) < 1e-5
    plain = dict(zip(hand.trained, hand.gradient(forget | others), strict=True))
    assert far(plain, expected) > 1e-3  # it is not what a plain step takes
    assert row["moved"]["by"] == pytest.approx(sum(each.square().sum() for each in by).item() ** 0.5, rel=1e-4)
    assert row["moved"].get("ascent", norm) == pytest.approx(norm.item(), rel=1e-4)
    assert (set(row["moved"]) == {"by", "ascent"}) == (step == "sam")
    # The losses told are those of the weights that the step began with.
    _, unmoved = step_gradient(tmp_path / "plain", method)
    assert row["terms"] == unmoved["terms"] and row["micro_losses"] == unmoved["micro_losses"]
    assert "moved" not in unmoved


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npo+pd", "klpd", "rmu"])
@pytest.mark.parametrize("step", [("step=sam", "step.rho=0.5"), ("step=smooth", "step.std=0.005")])
def test_eight_micro_steps_of_one_item_are_one_of_eight(tmp_path, step, method):
    more = ("forget_loss.terms.forget.layer=1",) if method == "rmu" else ()
    given = (*step, *more)
    many, one = (
        step_gradient(tmp_path / str(batch), method, *given, batch=batch, accumulation=8 // batch) for batch in (1, 8)
    )
    assert far(many[0], one[0]) < 1e-5
    assert many[1]["moved"] == pytest.approx(one[1]["moved"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_a_last_step_of_fewer_micro_steps_with_checkpointed_activations_too(tmp_path, checkpointing):
    """Five items, three a step, at a rate that moves nothing: the second step's gradient is the mean over two."""
    plan = {"steps": [{"forget": k, "retain": k, "decoupled": k} for k in range(5)]}
    given = ("forget_loss=gdpd", "step=sam", "step.rho=0.5", f"gradient_checkpointing={checkpointing}", "lr=1e-12")
    given += (f"plan={write_json(tmp_path / 'plan.json', plan)}", "gradient_accumulation_steps=3")
    kept = Gradients()
    built = trainer(tmp_path / "run", *given, callbacks=[kept], steps=2)
    hand = ByHand(built, 5)
    del hand.items[:3]
    ascent = hand.gradient({"forget": -1.0})
    norm = sum(each.square().sum() for each in ascent) ** 0.5
    rest = hand.gradient({"retain": 0.5, "decoupled": 0.5})
    hand.move([each / norm * 0.5 for each in ascent])
    expected = dict(zip(hand.trained, map(torch.add, hand.gradient({"forget": -1.0}), rest), strict=True))
    hand.move([each / norm * 0.5 for each in ascent], -1)
    built.train()
    assert len(kept.steps) == 2 and far(kept.steps[1], expected) < 1e-5


# Whole runs.


WORDS = (*GIVEN, "forget_loss=npo+pd", "max_train_steps=8", "LoRA.dropout=0.1", "lr=1e-3")
SIZES = {"sam": ("step.rho=0.5",), "smooth": ("step.std=0.005",), "average": ("step.last=0.5",), "plain": ()}
RESULTS = ("adapter_model.safetensors", "train_log.jsonl")


def forget(folder, step, *more):
    done = run("forget", *WORDS, f"step={step}", *SIZES[step], f"save_dir={folder}", *more)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight steps of each kind, with dropout, and a checkpoint after every one."""
    folder = tmp_path_factory.mktemp("whole")
    for step in STEPS:
        forget(folder / step, step, "save_steps=1", "save_total_limit=9")
    return folder


def adapter(folder):
    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
def test_the_mean_is_that_of_the_last_checkpoints_adapters(whole):
    mean, last = adapter(whole / "average"), adapter(whole / "average" / "checkpoint-8")
    each = [adapter(whole / "average" / f"checkpoint-{step}") for step in range(5, 9)]
    for name, value in mean.items():
        expected = torch.stack([one[name].double() for one in each]).mean(0)
        assert (value - expected).abs().max() <= 2e-7 * expected.abs().max(), name
    assert any(not torch.equal(mean[name], last[name]) for name in mean)
    # The steps themselves are plain ones.
    assert (whole / "average" / RESULTS[1]).read_bytes() == (whole / "plain" / RESULTS[1]).read_bytes()
    plain = adapter(whole / "plain" / "checkpoint-8")
    assert all(torch.equal(last[name], plain[name]) for name in last)
    assert (whole / "average" / "checkpoint-5" / MEAN).is_file()
    assert not (whole / "average" / "checkpoint-4" / MEAN).exists()


@pytest.mark.slow
def test_steps_differ_and_are_told_of(whole):
    logs = {step: read_lines(whole / step / "train_log.jsonl") for step in STEPS}
    for step in ("sam", "smooth"):
        assert logs[step][0]["terms"] == logs["plain"][0]["terms"] and logs[step][7]["loss"] != logs["plain"][7]["loss"]
        for row in logs[step]:
            assert row["moved"]["by"] > 0
            assert row["loss"] == pytest.approx(sum(row["terms"].values()), rel=1e-6)
    told = json.loads((whole / "sam" / "run.json").read_text())
    assert told["settings"]["step"] == {"name": "sam", "terms": "forget", "rho": 0.5}
    assert told["title"] == "NPO+PD+SAM" and told["settings"]["forget_loss"]["name"] == "npo+pd"


@pytest.mark.slow
@pytest.mark.parametrize(("step", "nothing"), [("sam", "step.rho=0"), ("smooth", "step.std=0")])
def test_a_move_of_nothing_is_a_plain_step_to_the_bit(whole, tmp_path, step, nothing):
    folder = forget(tmp_path / "run", step, nothing)
    assert (folder / RESULTS[0]).read_bytes() == (whole / "plain" / RESULTS[0]).read_bytes()
    rows, plain = (read_lines(each / "train_log.jsonl") for each in (folder, whole / "plain"))
    assert [row.pop("moved")["by"] for row in rows] == [0] * 8 and rows == plain


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 6])
@pytest.mark.parametrize("step", STEPS[1:])
def test_a_run_resumed_from_a_checkpoint_ends_alike(whole, tmp_path, step, at):
    folder = forget(tmp_path / "run", step, f"resume_from_checkpoint={whole / step / f'checkpoint-{at}'}")
    assert (folder / RESULTS[0]).read_bytes() == (whole / step / RESULTS[0]).read_bytes()
    assert read_lines(folder / RESULTS[1]) == read_lines(whole / step / RESULTS[1])[at:]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["sam", "average"])
def test_a_run_that_was_killed_goes_on_to_the_bit(whole, tmp_path, step):
    folder = tmp_path / "killed"
    given = (*WORDS, f"step={step}", *SIZES[step], f"save_dir={folder}", "save_steps=1", "save_total_limit=9")
    process = start("forget", *given)
    deadline = time.monotonic() + 200
    while not (folder / "checkpoint-6").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(folder / "checkpoint-8", ignore_errors=True)  # should it have been that quick
    forget(folder, step, "resume_from_checkpoint=auto")
    assert all((folder / name).read_bytes() == (whole / step / name).read_bytes() for name in RESULTS)


@pytest.mark.slow
def test_a_checkpoint_that_lacks_its_mean_is_refused(whole, tmp_path):
    folder = tmp_path / "checkpoint-6"
    shutil.copytree(whole / "average" / "checkpoint-6", folder)
    (folder / MEAN).unlink()
    words = (*WORDS, "step=average", "step.last=0.5", f"save_dir={tmp_path / 'run'}")
    done = run("forget", *words, f"resume_from_checkpoint={folder}")
    assert done.returncode == 2 and "mean.pt: the mean after 0 steps, and it should be after 2" in done.stderr


@pytest.mark.slow
def test_another_step_is_another_run_and_an_older_run_had_the_plain_one(whole, tmp_path):
    done = run("forget", *WORDS, "step=sam", f"save_dir={whole / 'sam'}", "resume_from_checkpoint=auto")
    assert done.returncode == 2 and "another step.rho (0.5, now 0.01)" in done.stderr
    done = run("forget", *WORDS, "step=sam", f"save_dir={whole / 'plain'}", "resume_from_checkpoint=auto")
    assert done.returncode == 2 and "another step." in done.stderr
    older = tmp_path / "checkpoint-6"
    shutil.copytree(whole / "plain" / "checkpoint-6", older)
    told = json.loads((older / "run.json").read_text())
    del told["settings"]["step"]
    (older / "run.json").write_text(json.dumps(told))
    folder = forget(tmp_path / "run", "plain", f"resume_from_checkpoint={older}")
    assert (folder / RESULTS[0]).read_bytes() == (whole / "plain" / RESULTS[0]).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("step", ["sam", "average"])
def test_of_a_run_that_a_bound_ends_the_last_good_adapter_is_kept(tmp_path, step):
    bound = ("forget_loss=ga", "lr=0.02", "warmup_ratio=0", "max_grad_norm=0", "stop.forget_loss=9", "save_steps=1")
    share = ("step.last=1",) if step == "average" else ()
    folder = forget(tmp_path / "run", step, *bound, *share, "save_total_limit=9")
    (sitting,) = json.loads((folder / "run.json").read_text())["sittings"]
    good = sitting["stopped"]["adapter_of_step"]
    assert sitting["to_step"] == good + 2 > 2
    kept, its = adapter(folder), adapter(folder / f"checkpoint-{good}")
    assert all(torch.equal(kept[name], its[name]) for name in kept)


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path):
    """As they stand there, in a dry run."""
    part = PAGE.partition("\n## Steps\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^ {4}python forget.py (.*)$", part, re.MULTILINE)
    assert len(commands) >= 3
    for words in map(shlex.split, commands):
        done = run("forget", *words, *GIVEN, f"save_dir={tmp_path / 'run'}", "dry_run=true")
        assert done.returncode == 0 and "\nThe step " in done.stdout, (words, done.stderr)
    assert not (tmp_path / "run").exists()
