"""`projector`: what each way trains and saves, SineProject against a loop by hand, and what does not go together."""

import json
import shutil

import pytest
import torch
from helpers import MODEL, ROOT, TRAIN, config, plan_dataset, read_lines, refused, run, settings, trained
from peft import PeftModel
from safetensors.torch import load_file
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.unlearn import run as running
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.trainer import UnlearnTrainer

pytestmark = pytest.mark.slow

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "LoRA.r=4", "LoRA.alpha=16", "workers=0")
FOUR = (*GIVEN, "LoRA.dropout=0.1", "lr=0.01", "warmup_ratio=0", "gradient_accumulation_steps=2", "max_train_steps=4")
FOUR += ("save_steps=2", "forget_loss=klpd")
OTHER = ("full", "lora", "sine", "frozen")
LAYERS = ("linear_1", "linear_2")
WHOLE = {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}
LORA = {f"{layer}.lora_{side}.weight" for layer in LAYERS for side in "AB"}
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module", params=OTHER)
def through(request, tmp_path_factory):
    """A run of klpd in one way, undisturbed."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    return request.param, trained(folder, *FOUR, f"projector={request.param}")


def of_projector(folder):
    """What an adapter holds of the projector, by the names below it."""
    saved = load_file(folder / WEIGHTS)
    mark = ".multi_modal_projector."
    return {name.partition(mark)[2]: value for name, value in saved.items() if mark in name}


def same(one, two):
    one, two = (load_file(folder / WEIGHTS) for folder in (one, two))
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def untouched():
    return models.load_model(str(MODEL), torch.float32).eval()


def built(tmp_path, *more):
    """A trainer as a run starts with it."""
    read = settings(f"save_dir={tmp_path}", "LoRA.r=4", *more)
    dataset = plan_dataset(read)
    arguments = running.training_arguments(read, Engine(), Schedule(read.max_train_steps, 0))
    model = running.load_model(read, Engine(), arguments, dataset)
    return running.build_trainer(read, arguments, model, None, dataset)


@torch.no_grad()
def logits(model, batch):
    return model.eval()(**batch).logits


def test_what_is_saved_and_told(through):
    how, folder = through
    found = of_projector(folder)
    assert found.keys() == {"full": WHOLE, "sine": WHOLE, "lora": LORA, "frozen": set()}[how]
    stays = untouched().model.multi_modal_projector.state_dict()
    for name, value in found.items():
        assert not torch.equal(value, stays.get(name, torch.zeros_like(value))), name
    told = json.loads((folder / "run.json").read_text())
    settings_told = told["settings"]
    assert (settings_told["projector"], settings_told["tune_mm_projector"]) == (how, how != "frozen")
    inside = 4 * (32 + 64) + 4 * (64 + 64) if how == "lora" else 0
    whole = (32 * 64 + 64) + (64 * 64 + 64) if how in ("full", "sine") else 0
    assert told["trained_parameters"] == {
        "LoRA": 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128)) + inside,
        "projector": whole,
        "vision_tower": 0,
    }
    assert (folder / "checkpoint-2" / "sines.safetensors").exists() == (how == "sine")
    assert not (folder / "sines.safetensors").exists()


def test_the_card_tells_how(through):
    how, folder = through
    said = {"full": ", projector whole", "lora": ", LoRA on the projector", "sine": ", projector as W + sin(D)"}
    card = (folder / "README.md").read_text()
    assert f"LoRA r=4, alpha=16, dropout=0.1{said.get(how, '')} |" in card


def test_a_run_that_was_interrupted_goes_on_to_the_bit(through, tmp_path, monkeypatch):
    how, whole = through
    train = UnlearnTrainer._maybe_log_save_evaluate

    def interrupted(self, *args, **kwargs):
        train(self, *args, **kwargs)
        if self.state.global_step == 3:
            raise KeyboardInterrupt

    words = (*FOUR, f"projector={how}", f"save_dir={tmp_path / 'run'}")
    with monkeypatch.context() as patched:
        patched.setattr(UnlearnTrainer, "_maybe_log_save_evaluate", interrupted)
        assert run("forget", *words).returncode == 130
    assert not (tmp_path / "run" / WEIGHTS).exists()
    trained(tmp_path / "run", *FOUR, f"projector={how}", "resume_from_checkpoint=auto")
    assert same(whole, tmp_path / "run")
    assert read_lines(whole / "train_log.jsonl") == read_lines(tmp_path / "run" / "train_log.jsonl")


def test_merged_and_reloaded_it_answers_alike(through, tmp_path):
    """By PEFT alone, by this project at part of its scale, and merged by the command."""
    _, folder = through
    batch = built(tmp_path / "rows", "forget_loss=gd", "max_train_steps=1")
    inputs = batch.data_collator([batch.train_dataset[0]])["inputs"]
    plain = logits(PeftModel.from_pretrained(untouched(), folder), inputs)
    bare = logits(untouched(), inputs)
    assert (plain - bare).abs().max() > 0.01
    assert torch.equal(logits(models.load_adapted(untouched(), folder), inputs), plain)
    assert torch.equal(logits(models.load_adapted(untouched(), folder, scale=0), inputs), bare)
    done = run("safeeraser.model", "merge", folder, tmp_path / "merged")
    assert done.returncode == 0, done.stderr
    merged = logits(models.load_model(str(tmp_path / "merged"), torch.float32), inputs)
    assert torch.allclose(merged, plain, atol=1e-4)


@pytest.mark.parametrize("how", ["sine", "lora"])
def test_a_model_that_was_trained_and_what_was_saved_of_it_answer_alike_to_the_bit(tmp_path, how):
    """And its reference is the untouched one, before and after."""
    trainer = built(tmp_path, "forget_loss=kl", f"projector={how}", "max_train_steps=3", "lr=0.01", "warmup_ratio=0")
    batch = trainer.data_collator([trainer.train_dataset[0]])["inputs"]
    bare = logits(untouched(), batch)
    assert torch.equal(logits(trainer.model, batch), bare)
    trainer.train()
    trainer.save_model()
    found = logits(trainer.model, batch)
    assert (found - bare).abs().max() > 0.01
    with trainer.model.disable_adapter():
        assert torch.equal(logits(trainer.model, batch), bare)
    assert torch.equal(logits(PeftModel.from_pretrained(untouched(), tmp_path), batch), found)


def test_sines_are_the_ones_of_a_loop_by_hand(tmp_path):
    """Two steps of plain descent on one term, LoRA's beside them; what the adapter holds is W + sin(D)."""
    rate, steps = 0.02, 2
    words = ("forget_loss=none", "max_train_steps=2", "gradient_accumulation_steps=1", "++trainer.optim=sgd")
    words += (
        "LoRA.alpha=4",
        f"lr={rate}",
        "lr_scheduler_type=constant",
        "warmup_ratio=0",
        "weight_decay=0",
        "max_grad_norm=0",
    )
    trainer = built(tmp_path, *words, "projector=sine")
    batches = [trainer.data_collator([trainer.train_dataset[number]]) for number in range(steps)]
    model = built(tmp_path / "hand", *words, "projector=frozen").model.train()
    lora = {name: each for name, each in model.named_parameters() if each.requires_grad}
    place = "base_model.model.model.multi_modal_projector."
    stays = {name: model.get_parameter(place + name).detach() for name in sorted(WHOLE)}
    moved = {name: torch.zeros_like(value, requires_grad=True) for name, value in stays.items()}
    for number, batch in enumerate(batches):
        sums = {place + name: value + torch.sin(moved[name]) for name, value in stays.items()}
        said = functional_call(model, sums, (), batch["inputs"]).logits
        (row,) = trainer.train_dataset[number]
        labels = torch.tensor(row.row.labels)
        cross_entropy(said[0, :-1], labels[1:]).backward()
        with torch.no_grad():
            for each in [*lora.values(), *moved.values()]:
                each -= rate * each.grad
                each.grad = None
    trainer.train()
    trainer.save_model()
    found = of_projector(tmp_path)
    for name, value in stays.items():
        torch.testing.assert_close(found[name], value + torch.sin(moved[name]), rtol=1e-5, atol=1e-6)
        assert (found[name] - value).abs().max() > 1e-4
    mine = dict(trainer.model.named_parameters())
    for name, value in lora.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-5, atol=1e-6)


def test_no_weight_moves_by_more_than_one(tmp_path):
    folder = trained(tmp_path / "far", *FOUR, "projector=sine", "lr=3", "stop.not_finite=false")
    stays = untouched().model.multi_modal_projector.state_dict()
    for name, value in of_projector(folder).items():
        assert (value - stays[name]).abs().max() <= 1 + 1e-6


def test_sines_begin_around_the_adapter_that_is_given(through, tmp_path):
    """`full` and `sine` are stored alike; the others hold something else, and are refused by name."""
    how, folder = through
    start = f"init_adapter={folder}"
    if how not in ("full", "sine"):
        refused(tmp_path, "forget", *GIVEN, start, "projector=sine", f"save_dir={tmp_path / 'no'}",
                says=f"(projector={how}), and this run projector=sine; give its own")  # fmt: skip
        return
    trainer = built(tmp_path, "forget_loss=kl", start, "LoRA.alpha=16", "projector=sine", "max_train_steps=1")
    batch = trainer.data_collator([trainer.train_dataset[0]])["inputs"]
    given = PeftModel.from_pretrained(untouched(), folder)
    assert torch.equal(logits(trainer.model, batch), logits(given, batch))
    trainer.save_model()
    assert same(folder, tmp_path)
    for other in ("lora", "frozen"):
        refused(tmp_path, "forget", *GIVEN, start, f"projector={other}", f"save_dir={tmp_path / 'no'}",
                says=f"has the projector whole (projector=full or sine), and this run projector={other}")  # fmt: skip


def test_stacked_on_its_own_kind(through, tmp_path):
    how, folder = through
    more = (f"init_adapter={folder}", f"projector={how}", "max_train_steps=2")
    on = trained(tmp_path / "on", *FOUR, *more)
    assert of_projector(on).keys() == of_projector(folder).keys() and not same(on, folder)
    done = run("forget", *FOUR, *more, f"save_dir={tmp_path / 'dry'}", "dry_run=true")
    assert done.returncode == 0, done.stderr


def test_stopped_by_a_bound_the_last_good_sines_are_kept(tmp_path):
    words = ("forget_loss=ga", "lr=0.05", "stop.forget_loss=9", "save_steps=1", "save_total_limit=9")
    folder = trained(tmp_path / "run", *FOUR, *words, "max_train_steps=6", "projector=sine")
    stopped = json.loads((folder / "run.json").read_text())["sittings"][0]["stopped"]
    assert stopped["reason"].startswith("stop.forget_loss=9") and stopped["adapter_of_step"] >= 1
    assert same(folder, folder / f"checkpoint-{stopped['adapter_of_step']}")


def test_in_bfloat16_sines_are_kept_in_float32(tmp_path):
    words = ("dtype=bfloat16", "projector=sine", "gradient_checkpointing=true")
    kept, again = (trained(tmp_path / str(number), *FOUR, *words[: 2 + number], "LoRA.dropout=0") for number in (0, 1))
    assert same(kept, again)
    found = of_projector(kept)
    assert all(value.dtype is torch.float32 for value in found.values())
    assert any(not torch.equal(value, value.bfloat16().float()) for value in found.values())


@pytest.mark.parametrize("through", ["sine"], indirect=True)
def test_a_checkpoint_without_its_sines_is_refused(through, tmp_path):
    _, folder = through
    half = shutil.copytree(folder, tmp_path / "half")
    shutil.rmtree(half / "checkpoint-4")
    told = json.loads((half / "run.json").read_text())
    (half / "run.json").write_text(json.dumps({key: value for key, value in told.items() if key != "finished"}))
    (half / "checkpoint-2" / "sines.safetensors").unlink()
    done = run("forget", *FOUR, "projector=sine", f"save_dir={half}", "resume_from_checkpoint=auto")
    assert done.returncode == 2
    assert "sines.safetensors: not what the projector was moved by" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("through", ["full", "frozen"], indirect=True)
def test_an_earlier_versions_run_goes_on(through, tmp_path):
    """It had `tune_mm_projector` alone: true is full, and false is frozen, in either key."""
    how, folder = through
    half = shutil.copytree(folder, tmp_path / "half")
    shutil.rmtree(half / "checkpoint-4")
    (half / WEIGHTS).unlink()
    for file in (half / "run.json", half / "checkpoint-2" / "run.json"):
        told = json.loads(file.read_text())
        del told["settings"]["projector"]
        file.write_text(json.dumps({key: value for key, value in told.items() if key != "finished"}))
    word = "tune_mm_projector=false" if how == "frozen" else "tune_mm_projector=true"
    trained(half, *FOUR, word, "resume_from_checkpoint=auto")
    assert same(folder, half)
    refused(tmp_path, "forget", *FOUR, "projector=sine", f"save_dir={half}", "resume_from_checkpoint=auto",
            says="its run has another projector")  # fmt: skip


@pytest.mark.parametrize("word", ["projector=frozen", "tune_mm_projector=false"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_two_keys_say_one_thing(word, kind):
    read = settings(word, f"finetune={kind}")
    assert (read.projector, read.tune_mm_projector) == ("frozen", False)
    assert "projector" not in read.whole and not (read.adapter and read.adapter.modules_to_save)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("projector=sin", "projector=sin: "),
        ("projector=sine finetune=full", "finetune=full: has no projector=sine"),
        ("projector=lora finetune=full", "finetune=full: has no projector=lora"),
        ("projector=sine tune_mm_projector=false", "projector=sine: not with tune_mm_projector=false"),
        ("projector=lora tune_vision_tower=true model_family=qwen3-vl-2b", "it lies within the vision tower"),
    ],
)
def test_what_does_not_go_together(words, says):
    with pytest.raises(BadInput, match=says) as error:
        read_settings(config(*words.split()))
    assert "\n" not in str(error.value)


def test_the_releases_form_has_no_name_for_lora_on_a_projector(through, tmp_path):
    how, folder = through
    if how == "lora":
        refused(tmp_path, "safeeraser.model", "convert", folder, tmp_path / "checkpoint.pt",
                says="for which the release's form, of LLaVA-1.5 alone, has no name")  # fmt: skip
        return
    done = run("safeeraser.model", "convert", folder, tmp_path / "checkpoint.pt")
    assert done.returncode == 0, done.stderr
    back = models.load_adapted(untouched(), tmp_path / "checkpoint.pt", alpha=16)
    for name, value in of_projector(folder).items():
        found = back.get_submodule("base_model.model.model.multi_modal_projector.modules_to_save.default")
        torch.testing.assert_close(found.get_parameter(name), value, rtol=1e-3, atol=1e-3)


def test_a_dry_run_counts_what_stays_and_what_moves(tmp_path):
    words = ("dry_run=true", "engine=" + str(ROOT / "config" / "accelerate" / "cpu_zero3.yaml"))
    rows = {}
    for how in OTHER:
        done = run("forget", *GIVEN, *words, f"projector={how}", f"save_dir={tmp_path / 'no'}")
        assert done.returncode == 0, done.stderr
        (line,) = (line for line in done.stdout.splitlines() if line.split()[:1] == ["projector"])
        rows[how] = [int(number.replace(",", "")) for number in line.split()[1:]]
    whole = (32 * 64 + 64) + (64 * 64 + 64)
    assert rows == {"full": [whole, whole], "sine": [whole, 2 * whole], "lora": [whole], "frozen": [whole]}
