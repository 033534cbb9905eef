"""The gradient mask: what it chooses, by hand; what is refused; and runs under it, whose held weights never move."""

import json
import re
import shlex
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from helpers import MODEL, ROOT, TRAIN, plan_dataset, read_lines, run, settings, start, trained
from safetensors.torch import load_file, save_file
from transformers import set_seed

from safeeraser.errors import BadInput
from safeeraser.unlearn import run as running
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.data import load_data
from safeeraser.unlearn.engine import Engine, check_engine
from safeeraser.unlearn.job import Job, make_or_read_plan
from safeeraser.unlearn.mask import choose, items_compared
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.plan import Schedule, Step
from safeeraser.unlearn.save_dir import MASK_FILE, _difference
from safeeraser.unlearn.settings import Compared

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "gradient_accumulation_steps=2")
# A rate and a decay at which whatever may move does: 0.01 of each weight in each step.
MOVES = ("lr=0.02", "weight_decay=0.5", "warmup_ratio=0", "lr_scheduler_type=constant")
ADAPTER = "adapter_model.safetensors"


def tensors(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def chosen(mine, other, top):
    return {name: each.tolist() for name, each in choose(tensors(**mine), tensors(**other), top).items()}


MINE, OTHER = {"a": [[4.0, 1.0], [3.0, 2.0]], "b": [6.0, 0.5]}, {"a": [[1.0, 2.0], [1.0, 1.0]], "b": [1.0, 0.0]}


def test_what_exceeds_the_other_is_trained():
    """Ratios 4, 1/2, 3, 2 and 6, infinity."""
    assert chosen(MINE, OTHER, 1.0) == {"a": [[True, False], [True, True]], "b": [True, True]}
    assert chosen(OTHER, MINE, 1.0) == {"a": [[False, True], [False, False]], "b": [False, False]}


def test_of_what_exceeds_the_greatest_ratios_of_all_matrices_are_taken():
    assert chosen(MINE, OTHER, 0.5) == {"a": [[True, False], [False, False]], "b": [True, True]}
    # A third of six; and of less than two, one.
    assert chosen(MINE, OTHER, 0.34) == {"a": [[False, False], [False, False]], "b": [True, True]}
    assert chosen(MINE, OTHER, 0.3) == {"a": [[False, False], [False, False]], "b": [False, True]}


def test_what_is_equal_does_not_exceed_and_of_equal_ratios_the_first_are_taken():
    assert chosen({"a": [1.0, 2.0, 3.0]}, {"a": [1.0, 2.0, 3.0]}, 1.0) == {"a": [False] * 3}
    assert chosen({"a": [2.0] * 4, "b": [2.0] * 4}, {"a": [1.0] * 4, "b": [1.0] * 4}, 0.75) == {
        "a": [True] * 4,
        "b": [True, True, False, False],
    }
    # So also where the other has none at all.
    assert chosen({"a": [2.0, 3.0, 0.0]}, {"a": [0.0, 0.0, 1.0]}, 0.34) == {"a": [True, False, False]}


def test_a_matrix_on_which_neither_has_a_gradient_is_left_out():
    mine, other = MINE | {"c": [0.0, 0.0], "d": [0.0, 1.0]}, OTHER | {"c": [0.0, 0.0], "d": [0.0, 0.0]}
    assert chosen(mine, other, 1.0).keys() == {"a", "b", "d"}
    assert chosen(mine, other, 1.0)["d"] == [False, True]
    assert chosen({"c": [0.0]}, {"c": [0.0]}, 1.0) == {}


def test_the_items_are_spread_over_the_plan_and_none_comes_twice():
    plan = [Step(forget=number, retain=epoch) for epoch in range(3) for number in range(8)]
    assert [(step.forget, step.retain) for step in items_compared(plan, 4)] == [(0, 0), (2, 0), (4, 0), (6, 0)]
    assert [step.forget for step in items_compared(plan, 3)] == [0, 2, 5]
    assert items_compared(plan, 99) == plan[:8]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("mask={top:0.3,from:refusal,against:decoupled,items:4}", (0.3, "refusal", "decoupled", 4)),
        ("mask={top: 0.3}", (0.3, "forget", "retain", 32)),
        ("mask={from:decoupled}", (0.5, "decoupled", "retain", 32)),
        ("mask={}", (0.5, "forget", "retain", 32)),
    ],
)
def test_a_command_line_names_what_is_not_the_default(word, wanted):
    read = settings(word)
    assert (read.mask.top, read.mask.from_, read.mask.against, read.mask.items) == wanted
    told = read.model_dump(mode="json")
    assert told["mask"] == dict(zip(("top", "from", "against", "items"), wanted, strict=True))
    assert read_settings(from_keys(told)).model_dump(mode="json") == told
    assert settings("mask={top:0.5}", "mask.top=0.3").mask == Compared(top=0.3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("mask={top:0}",), "mask.top=0: Input should be greater than 0"),
        (("mask={top:1.5}",), "mask.top=1.5: Input should be less than or equal to 1"),
        (("mask={items:0}",), "mask.items=0: Input should be greater than or equal to 1"),
        (("mask={from:forgt}",), "mask.from=forgt: no view 'forgt'; did you mean 'forget'?"),
        (("mask=true",), "config: mask=True: must be null, or have keys"),
        (("mask={fro:forget}",), "no key 'mask.fro'; did you mean 'from'?"),
        (("mask={from:retain}",), "compares the views `from` and `against`, and both are retain"),
        (("mask={}", "finetune=full"), "finetune=full: takes no mask, which is of LoRA's weights"),
        (("mask={}", "~data.views.retain"), "mask.against=retain: data=safeeraser has no such view; known: forget"),
    ],
)
def test_a_mask_that_makes_no_sense(words, says):
    with pytest.raises(BadInput) as error:
        settings("forget_loss=ga", *words)
    assert str(error.value).startswith("config: ") and says in str(error.value)


@pytest.mark.parametrize("name", ["zero3", "fsdp"])
def test_engines_that_split_weights_are_refused(name):
    with pytest.raises(BadInput, match=f"^mask: .* which {name} shares out; use one GPU, ddp or zero2$"):
        check_engine(Engine(name, 2), settings("mask={}"), items=99)
    check_engine(Engine(name, 2), settings(), items=99)
    check_engine(Engine("zero2", 2), settings("mask={}"), items=99)


def test_both_of_its_views_are_read_and_a_term_sees_its_own_alone():
    read = settings("forget_loss=ga", "mask={from:refusal,against:decoupled}")
    assert read.views == ["forget", "decoupled", "refusal"] and settings("forget_loss=ga").views == ["forget"]
    assert load_data(read).items.keys() == {"forget", "decoupled", "refusal"}
    assert [viewed.view for viewed in plan_dataset(read)[0]] == ["forget"]


def test_a_run_of_an_earlier_version_had_none():
    told = settings().model_dump(mode="json")
    del told["mask"]
    earlier = {"settings": told, "engine": Engine().record}
    assert _difference(settings(), Engine(), earlier) is None
    assert _difference(settings("mask={}"), Engine(), earlier).startswith("mask (None, now {'top': 0.5, ")


def built(*words):
    """The job and the model of these settings, as a run has them when its mask is made."""
    read = settings("forget_loss=klpd", "num_epochs=1", *words)
    data = load_data(read)
    plan = make_or_read_plan(read, data.sizes, 1)
    job = Job(Engine(), None, data, {}, plan, Schedule(len(plan), 0))
    dataset = running.load_dataset(read, job)
    arguments = running.training_arguments(read, Engine(), Schedule(1, 0))
    return read, job, running.load_model(read, Engine(), arguments, dataset), dataset


def mask_of(*words):
    read, job, model, dataset = built(*words)
    return running.load_mask(read.mask, read, job, model, dataset)


def test_lora_on_the_projector_is_trained_as_without_a_mask():
    mask = mask_of("projector=lora", "mask={items: 2}")
    assert mask.trained and all(".layers." in name for name in mask.trained)
    assert set(mask.record["layers"]) == {"0", "1"}


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """An adapter whose B is no longer 0."""
    return trained(
        tmp_path_factory.mktemp("moved") / "run",
        *GIVEN,
        "forget_loss=gd",
        "max_train_steps=2",
        "lr=0.01",
        "warmup_ratio=0",
    )


def by_hand(read, job, model, dataset, view):
    """The sum of squared gradients over the items of a view, by the model's own loss, in float64."""
    model = model.double().eval()
    sums = {name: 0 for name, each in model.named_parameters() if each.requires_grad and ".lora_" in name}
    for step in items_compared(job.plan, read.mask.items):
        item = job.data.items[view][getattr(step, view)]
        if view == "refusal":
            item = replace(job.data.items[view][step.forget], answer=job.data.refusals[step.refusal])
        row = dataset._row(item)
        inputs = {key: each.double() if each.is_floating_point() else each for key, each in row.inputs.items()}
        ids = torch.tensor([row.input_ids])
        joined = dataset.preprocessor.join([row], side="right") | inputs
        model.zero_grad()
        model(**joined, labels=torch.tensor([row.labels])).loss.backward()
        assert joined["input_ids"].shape == ids.shape
        for name, each in model.named_parameters():
            if name in sums and each.grad is not None:
                sums[name] = sums[name] + each.grad.square()
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("start_at", ["fresh", "moved"])
@pytest.mark.parametrize("views", [("forget", "retain"), ("decoupled", "refusal")])
def test_it_is_what_a_plain_computation_chooses(moved, start_at, views):
    words = [f"mask={{top:0.2,from:{views[0]},against:{views[1]},items:5}}", "forget_loss=popd"]
    words += [f"init_adapter={moved}"] if start_at == "moved" else []
    mask = mask_of(*words)
    read, job, model, dataset = built(*words)
    mine, other = (by_hand(read, job, model, dataset, view) for view in views)
    compared = [name for name in mine if (mine[name] != 0).any() or (other[name] != 0).any()]
    # B alone where it is 0, or A too.
    assert mask.trained.keys() == set(compared)
    assert len(compared) == (14 if start_at == "fresh" else 28) and len(mine) == 28
    ratio = torch.cat([(mine[name] / other[name]).flatten() for name in compared])
    most = int(0.2 * len(ratio))
    assert (ratio > 1).sum() > most and mask.record["trained"] == most
    least = ratio.sort(descending=True).values[most - 1]
    found = torch.cat([mask.trained[name].flatten() for name in compared])
    # In float32 what lies at the bound may fall to the other side.
    clear = (ratio / least - 1).abs() > 1e-3
    assert clear.float().mean() > 0.99 and torch.equal(found[clear], (ratio >= least)[clear])
    assert mask.record["compared"] == len(ratio)
    assert mask.record["not_compared"] == sum(
        each.numel() for name, each in model.named_parameters() if ".lora_" in name
    ) - len(ratio)
    in_first = [name for name in compared if ".layers.0." in name]
    share = sum(mask.trained[name].sum().item() for name in in_first) / sum(
        mask.trained[name].numel() for name in in_first
    )
    assert mask.record["layers"].keys() == {"0", "1"} and mask.record["layers"]["0"] == pytest.approx(share, abs=1e-4)


@pytest.mark.slow
def test_at_top_1_all_that_exceeds_is_trained_and_no_more(moved):
    words = (f"init_adapter={moved}", "mask={top:1,items:5}")
    whole, half = mask_of(*words), mask_of(f"init_adapter={moved}", "mask={top:0.1,items:5}")
    assert 0.2 < whole.record["trained"] / whole.record["compared"] < 0.8
    assert half.record["trained"] == int(0.1 * half.record["compared"])
    assert all((half.trained[name] <= whole.trained[name]).all() for name in whole.trained)
    # The other way round those that do not, but for the equal ones.
    other = mask_of(f"init_adapter={moved}", "mask={top:1,from:retain,against:forget,items:5}")
    assert not any((other.trained[name] & whole.trained[name]).any() for name in whole.trained)


@pytest.mark.slow
def test_nothing_is_drawn_and_dropout_is_off(moved):
    words = (f"init_adapter={moved}", "mask={items:5}")
    read, job, model, dataset = built(*words, "LoRA.dropout=0.5")
    set_seed(7)
    before, values = torch.get_rng_state(), {name: each.clone() for name, each in model.state_dict().items()}
    mask = running.load_mask(read.mask, read, job, model, dataset)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(each, values[name]) for name, each in model.state_dict().items())
    assert all(each.grad is None for each in model.parameters())
    assert mask.record == mask_of(*words).record


@pytest.mark.slow
def test_with_checkpointed_activations_it_is_the_same(moved):
    words = (f"init_adapter={moved}", "mask={items:5}")
    assert mask_of(*words, "gradient_checkpointing=true").record == mask_of(*words).record


@pytest.mark.slow
def test_in_bfloat16_it_is_nearly_the_same(moved):
    words = (f"init_adapter={moved}", "mask={items:5}")
    rounded, exact = mask_of(*words, "dtype=bfloat16"), mask_of(*words)
    alike = sum((each == exact.trained[name]).sum().item() for name, each in rounded.trained.items())
    assert alike > 0.8 * exact.record["compared"] and rounded.record["compared"] == exact.record["compared"]


@pytest.mark.slow
def test_a_mask_under_which_nothing_would_be_trained_is_refused():
    with pytest.raises(BadInput, match=r"^mask: of 36,864 weights that forget and retain could be compared on, none "):
        mask_of("mask={top:1e-6,items:2}")


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_is_refused():
    read, job, model, dataset = built("mask={items:2}")
    model.get_output_embeddings().weight.data[0] = float("nan")
    with pytest.raises(BadInput, match=r"record 0, unsafe_pairs.*: mask: its gradient on view forget is not finite"):
        running.load_mask(read.mask, read, job, model, dataset)


def differs(one, two):
    """Of two adapters' LoRA matrices, where they differ, by the names that a mask has."""
    one, two = (load_file(folder / ADAPTER) for folder in (one, two))
    named = {name: name.replace(".weight", ".default.weight") for name in one if ".lora_" in name}
    return {named[name]: one[name] != two[name] for name in named}


def assert_held(folder, start, *, decayed=True):
    """What the mask of a run holds is to the bit what it was; nearly all else has moved."""
    mask, moved = load_file(folder / MASK_FILE), differs(folder, start)
    assert mask.keys() <= moved.keys()
    for name, trains in mask.items():
        assert not moved[name][~trains].any(), name
        assert moved[name][trains].float().mean() > 0.95, name
    for name in moved.keys() - mask.keys():
        assert moved[name].all() or not decayed, name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "views"),
    [("npo", "from:forget"), ("klpd", "from:forget,against:decoupled"), ("popd", "from:refusal,against:decoupled")],
)
def test_weights_that_are_held_do_not_move_to_the_bit(moved, tmp_path, method, views):
    words = (*GIVEN, *MOVES, f"forget_loss={method}", f"init_adapter={moved}", "max_train_steps=3")
    folder = trained(tmp_path / "run", *words, f"mask={{{views},items:4}}")
    assert_held(folder, moved)
    told = json.loads((folder / "run.json").read_text())["mask"]
    assert told["items"] == 4 and told["not_compared"] == 0 and told["trained"] <= told["compared"] / 2
    # Without a mask all of them move, by decay if by nothing else.
    assert all(each.float().mean() > 0.95 for each in differs(trained(tmp_path / "all", *words), moved).values())


@pytest.mark.slow
@pytest.mark.parametrize("step", ["sam", "smooth"])
def test_nor_do_they_where_the_gradient_is_taken_at_moved_weights(moved, tmp_path, step):
    words = (*GIVEN, *MOVES, "forget_loss=gd", f"init_adapter={moved}", "max_train_steps=3", "mask={items:4}")
    folder = trained(tmp_path / "run", *words, f"step={step}")
    assert all(row["moved"]["by"] > 0 for row in read_lines(folder / "train_log.jsonl"))
    assert_held(folder, moved)


@pytest.mark.slow
def test_in_4_bits_they_do_not_move_either(moved, tmp_path):
    words = (*GIVEN, *MOVES, "forget_loss=klpd", f"init_adapter={moved}", "max_train_steps=3", "mask={items:4}")
    assert_held(trained(tmp_path / "run", *words, "dtype=bfloat16", "quantization=nf4"), moved)


@pytest.mark.slow
def test_of_a_fresh_adapter_b_is_masked_and_a_trained_whole(tmp_path):
    words = (*GIVEN, *MOVES, "forget_loss=gd", "mask={top:0.3,items:4}")
    first, folder = (trained(tmp_path / str(n), *words, f"max_train_steps={n}") for n in (1, 3))
    mask, adapter = load_file(folder / MASK_FILE), load_file(folder / ADAPTER)
    assert len(mask) == 14 and all(".lora_B." in name for name in mask)
    for name, trains in mask.items():
        b = adapter[name.replace(".default", "")]
        assert not b[~trains].any() and b[trains].count_nonzero() > 0.95 * trains.sum()
    assert all(moves.all() for name, moves in differs(folder, first).items() if ".lora_A." in name)


@pytest.mark.slow
@pytest.mark.parametrize("optim", ["adafactor", "sgd"])
def test_other_optimizers_hold_them_too(moved, tmp_path, optim):
    words = (*GIVEN, *MOVES, "forget_loss=gd", f"init_adapter={moved}", "max_train_steps=3", f"trainer.optim={optim}")
    folder = trained(tmp_path / "run", *words, "mask={items:4}")
    mask, moves = load_file(folder / MASK_FILE), differs(folder, moved)
    assert not any(moves[name][~trains].any() for name, trains in mask.items())
    assert sum(moves[name][trains].sum() for name, trains in mask.items()) > 0


@pytest.mark.slow
def test_an_optimizer_that_would_not_is_refused(tmp_path):
    done = run("forget", *GIVEN, "mask={}", "trainer.optim=adamw_8bit", f"save_dir={tmp_path / 'run'}", "dry_run=true")
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: mask: trainer.optim=adamw_8bit moves weights without a gradient, which are to "
    )


@pytest.mark.slow
def test_eight_micro_steps_of_one_item_train_as_one_of_eight(moved, tmp_path):
    words = (
        *GIVEN,
        "forget_loss=gdpd",
        f"init_adapter={moved}",
        "max_train_steps=2",
        "LoRA.dropout=0",
        "mask={items:4}",
    )
    many = trained(tmp_path / "many", *words, "batch_size=1", "gradient_accumulation_steps=8")
    one = trained(tmp_path / "one", *words, "batch_size=8", "gradient_accumulation_steps=1")
    assert (many / MASK_FILE).read_bytes() == (one / MASK_FILE).read_bytes()
    first, second = (load_file(folder / ADAPTER) for folder in (many, one))
    assert max((first[name] - second[name]).abs().max() for name in first) < 1e-5
    norms = [read_lines(folder / "train_log.jsonl")[0]["grad_norm"] for folder in (many, one)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


@pytest.mark.slow
def test_the_norm_that_is_clipped_is_of_what_is_trained(moved, tmp_path):
    """Of a mask that holds nearly everything."""
    words = (*GIVEN, "forget_loss=gd", "max_train_steps=1", "LoRA.dropout=0", f"init_adapter={moved}")
    few = trained(tmp_path / "few", *words, "mask={top:0.001,items:4}")
    whole = trained(tmp_path / "whole", *words)
    norms = [read_lines(folder / "train_log.jsonl")[0]["grad_norm"] for folder in (few, whole)]
    assert norms[0] < norms[1]


WORDS = (*GIVEN, *MOVES, "forget_loss=klpd", "max_train_steps=8", "save_steps=2", "save_total_limit=9")
WORDS = (*WORDS, "LoRA.dropout=0.1", "mask={top:0.3,items:4}")
RESULTS = (ADAPTER, "train_log.jsonl", MASK_FILE, f"checkpoint-8/{MASK_FILE}")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Eight steps under a mask, and checkpoints on the way."""
    return trained(tmp_path_factory.mktemp("runs") / "whole", *WORDS)


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_bit_under_the_mask_that_it_kept(whole, tmp_path, monkeypatch):
    killed = tmp_path / "killed"
    process = start("forget", *WORDS, f"save_dir={killed}")
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint-4").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shutil.rmtree(killed / "checkpoint-8", ignore_errors=True)  # should it have been that quick
    monkeypatch.setattr(running, "make_mask", None)  # it is read, not made again
    trained(killed, *WORDS, "resume_from_checkpoint=auto")
    assert all((killed / name).read_bytes() == (whole / name).read_bytes() for name in RESULTS)
    told = [json.loads((folder / "run.json").read_text())["mask"] for folder in (killed, whole)]
    assert told[0] == told[1]


@pytest.mark.slow
def test_what_it_kept_goes_with_a_checkpoint_and_no_other_will_do(whole, tmp_path):
    words = (*WORDS, f"save_dir={tmp_path / 'other'}", f"resume_from_checkpoint={whole / 'checkpoint-6'}")
    assert run("forget", *words).returncode == 0
    assert all((tmp_path / "other" / name).read_bytes() == (whole / name).read_bytes() for name in RESULTS[::2])
    done = run("forget", *words[:-2], f"save_dir={tmp_path / 'x'}", words[-1], "mask.top=0.4")
    assert done.returncode == 2 and "another mask.top (0.3, now 0.4)" in done.stderr
    # A damaged one, and none.
    checkpoint = tmp_path / "checkpoint-6"
    shutil.copytree(whole / "checkpoint-6", checkpoint)
    words = (*WORDS, f"save_dir={tmp_path / 'x'}", f"resume_from_checkpoint={checkpoint}")
    mask = load_file(checkpoint / MASK_FILE)
    save_file({name: ~each for name, each in mask.items()}, checkpoint / MASK_FILE)
    done = run("forget", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {checkpoint / MASK_FILE}: not the mask that the run began with, ")
    (checkpoint / MASK_FILE).unlink()
    done = run("forget", *words)
    assert done.returncode == 2 and f"error: {checkpoint / MASK_FILE}: missing; " in done.stderr
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_start_that_failed_leaves_no_mask_behind(whole, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("run.json", MASK_FILE):
        shutil.copy(whole / name, folder)
    trained(folder, *GIVEN, "forget_loss=ga", "max_train_steps=1")
    assert not (folder / MASK_FILE).exists() and "mask" not in json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_the_log_and_the_card_tell_the_shares(whole, tmp_path, caplog):
    with caplog.at_level("INFO"):
        mask_of("mask={top:0.3,items:4}")
    (line,) = (each for each in caplog.messages if each.startswith("mask: "))
    assert line.startswith(
        "mask: 11,059 of 36,864 LoRA weights are trained (30.0%; forget against retain, 4 items); 32,768 "
    )
    assert re.search(r"share of each layer: 0 [0-9.]+%, 1 [0-9.]+%$", line)
    assert "| gradient mask | 30.0% of LoRA's weights, by forget against retain |" in (whole / "README.md").read_text()


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path):
    """As they stand there, in a dry run; it tells of the mask and what it costs."""
    part = (ROOT / "docs" / "methods.md").read_text().partition("\n## A gradient mask\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^ {4}python forget.py (.*)$", part, re.MULTILINE)
    assert len(commands) == 2
    for words, says in zip(
        commands, ("30% of the LoRA weights", "gradients on refusal against decoupled"), strict=True
    ):
        done = run("forget", *shlex.split(words), *GIVEN, f"save_dir={tmp_path / 'run'}", "dry_run=true")
        assert done.returncode == 0, done.stderr
        assert says in done.stdout and ": 32 items of each go forward and backward first, one by one." in done.stdout
        assert re.search(r"gradient mask +0\.07", done.stdout)
    done = run(
        "forget",
        "mask={}",
        *GIVEN,
        "dtype=auto",
        "dry_run=true",
        f"engine={ROOT / 'config' / 'accelerate' / 'zero3.yaml'}",
    )
    assert done.returncode == 2 and done.stderr.startswith(
        "error: mask: compares the gradients of whole weights, which zero3 "
    )
