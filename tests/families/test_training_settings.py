"""What else a run may be told, for each family: trained whole, its vision tower too, checkpointed, mixed batches."""

import bitsandbytes
import pytest
import torch
from helpers import RECORDED, TRAIN, VAL, plan_dataset, read_lines, refused, settings, trained, write_json
from helpers import run as forget
from transformers import TrainerCallback

from safeeraser import model as models
from safeeraser.benchmark.files import run_of
from safeeraser.benchmark.pictures import picture_size
from safeeraser.unlearn import run
from safeeraser.unlearn.engine import Engine
from safeeraser.unlearn.plan import Schedule
from safeeraser.unlearn.trainer import UnlearnTrainer

from .recorded import Recorded, picture

pytestmark = pytest.mark.slow

# One family of each kind of vision tower.
ONE_EACH = ("gemma3", "llava_next", "qwen2_5_vl", "smolvlm")


def words(family, *more):
    """What a run of this family is told."""
    given = ("dtype=float32", "LoRA.dropout=0", "workers=0", "gradient_accumulation_steps=2", "max_train_steps=1")
    return (f"model_path={family.path}", f"data_path={TRAIN}", "forget_loss=gdpd", "LoRA.r=4", *given, *more)


class Gradients(TrainerCallback):
    """Keeps what each trained parameter is given before the optimizer's step: its gradient, or none."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def gradients(folder, family, monkeypatch, *more):
    """Each trained parameter's gradient in one optimizer step, as a run takes it."""
    monkeypatch.chdir(RECORDED)
    read = settings(*words(family, f"save_dir={folder}", "max_grad_norm=0", *more))
    dataset, kept = plan_dataset(read), Gradients()
    arguments = run.training_arguments(read, Engine(), Schedule(1, 0))
    model = run.load_model(read, Engine(), arguments, dataset)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad and read.adapter:  # off the value where LoRA does nothing
            parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    trainer = run.build_trainer(read, arguments, model, None, dataset)
    trainer.add_callback(kept)
    trainer.train()
    return kept.found


def test_every_parameter_that_is_trained_has_a_gradient(family, tmp_path, monkeypatch):
    """DDP would wait for one that has none. With the vision tower all kinds of parts are trained."""
    found = gradients(tmp_path, family, monkeypatch, "tune_vision_tower=true")
    assert [name for name, gradient in found.items() if gradient is None] == []
    whole = gradients(tmp_path / "whole", family, monkeypatch, "tune_vision_tower=true", "finetune=full")
    assert [name for name, gradient in whole.items() if gradient is None] == []
    tower = models.family_of(family.path).vision_tower
    for trained_here in (found, whole):
        assert any(f".{tower}." in f".{name}" for name in trained_here)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_a_projector_within_the_vision_tower_is_left_alone_where_it_is_not_to_be_trained(name, tmp_path, monkeypatch):
    chosen = Recorded(name)
    family = models.family_of(chosen.path)
    for tuned in (True, False):
        told = ("tune_vision_tower=true", f"tune_mm_projector={str(tuned).lower()}")
        found = gradients(tmp_path / str(tuned), chosen, monkeypatch, *told)
        assert any("visual" in name for name in found)
        assert any("merger" in name for name in found) == tuned
        assert ("projector" in {family.part_of(name) for name in found}) == tuned


def test_a_model_trained_whole_is_a_folder_like_any_other(family, tmp_path):
    """With its vision tower; its family is told by the folder, and it is trained on from there."""
    given = words(family, "finetune=full", "lr=0.001", "warmup_ratio=0", "save_steps=0")
    folder = trained(tmp_path / "run", *given, "tune_vision_tower=true")
    assert models.family_of(str(folder)).model_type == models.family_of(family.path).model_type
    before, after = (models.load_model(str(path), torch.float32).state_dict() for path in (family.path, folder))
    assert before.keys() == after.keys()
    moved = {models.family_of(family.path).part_of(name) for name in before if not before[name].equal(after[name])}
    assert moved - {"head"} == {"language_model", "projector", "vision_tower"}
    row = family.rows[0]
    turn = models.Turn(picture(row["picture"]), row["question"], row["answer"])
    one, two = (models.load_preprocessor(str(path)).encode(turn) for path in (family.path, folder))
    assert (one.input_ids, one.labels) == (two.input_ids, two.labels)
    assert all(torch.equal(value, two.inputs[name]) for name, value in one.inputs.items())
    trained(tmp_path / "on", *words(family), f"model_path={folder}")


def assert_same(one, two, tolerance=1e-5):
    assert one.keys() == two.keys()
    size = max(value.norm() for value in one.values())
    for name, value in one.items():
        assert (value - two[name]).norm() <= tolerance * value.norm() + 1e-7 * size, name


@pytest.mark.parametrize("name", ONE_EACH)
def test_activations_made_again_give_the_same_gradient(name, tmp_path, monkeypatch):
    kept, made = (
        gradients(tmp_path / switch, Recorded(name), monkeypatch, f"gradient_checkpointing={switch}")
        for switch in ("false", "true")
    )
    assert_same(kept, made)


def test_a_batch_of_two_has_the_gradient_of_two_of_one(family, tmp_path, monkeypatch):
    """Pictures of both shapes in one micro-step, in all views."""
    widths = [picture_size(RECORDED / row["picture"]) for row in family.rows if row["view"] == "forget"]
    upright, lying = (next(n for n, (w, h) in enumerate(widths) if (w > h) == wide) for wide in (False, True))
    steps = [{"forget": one, "retain": other, "decoupled": one} for one, other in ((upright, lying), (lying, upright))]
    plan = f"plan={write_json(tmp_path / 'plan.json', {'steps': steps})}"
    together, apart = (
        gradients(
            tmp_path / str(batch), family, monkeypatch, plan, f"batch_size={batch}",
            f"gradient_accumulation_steps={2 // batch}", "attention=eager",
        )
        for batch in (2, 1)
    )  # fmt: skip
    assert_same(together, apart)


def test_a_system_text_that_no_template_has_is_noted_once(tmp_path):
    given = words(Recorded("qwen3_vl"), f"save_dir={tmp_path / 'run'}", "overwrite_dir=true")
    for recipe, dry in (("official", "true"), ("official", "false"), ("corrected", "false")):
        done = forget("forget", *given, f"recipe={recipe}", f"dry_run={dry}")
        assert done.returncode == 0, done.stderr
        noted = (done.stdout + done.stderr).count("training_system=human has no effect")
        assert noted == (recipe == "official")


def test_the_language_model_alone_in_4_bits(tmp_path, monkeypatch):
    """With real bitsandbytes: neither the vision tower, nor the projector within it, nor the head."""
    family = Recorded("qwen3_vl")
    monkeypatch.chdir(RECORDED)
    read = settings(*words(family, f"save_dir={tmp_path}", "quantization=nf4"))
    model = run.load_base(read, Engine(), run.training_arguments(read, Engine(), Schedule(1, 0)))
    packed = {name for name, module in model.named_modules() if type(module) is bitsandbytes.nn.Linear4bit}
    layers = family.config["text_config"]["num_hidden_layers"]
    assert len(packed) == 7 * layers and all(".language_model.layers." in name for name in packed)
    (row,) = read_lines(trained(tmp_path / "run", *words(family, "quantization=nf4")) / "train_log.jsonl")
    (plain,) = read_lines(trained(tmp_path / "plain", *words(family)) / "train_log.jsonl")
    assert 0 < abs(row["loss"] - plain["loss"]) < 0.1 * abs(plain["terms"]["forget"])
    assert row["grad_norm"] == pytest.approx(plain["grad_norm"], rel=0.3)


@pytest.mark.parametrize("name", ["gemma3", "qwen3_vl"])
def test_a_run_that_was_broken_off_goes_on_to_the_bit_with_its_probes(name, tmp_path, monkeypatch):
    given = words(Recorded(name), "max_train_steps=4", "save_steps=2", "LoRA.dropout=0.1", "lr=0.01", "probe_every=2")
    given += (f"probe.data_path={VAL}", "probe.prompts=2", "probe.max_new_tokens=4")
    whole, compute = trained(tmp_path / "whole", *given), UnlearnTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(UnlearnTrainer, "compute_loss", interrupted)
        assert forget("forget", *given, f"save_dir={tmp_path / 'run'}").returncode == 130
    resumed = trained(tmp_path / "run", *given, "resume_from_checkpoint=auto")
    assert [sitting["from_step"] for sitting in run_of(resumed)["sittings"]] == [0, 2]
    for file in ("adapter_model.safetensors", "train_log.jsonl", "probe.jsonl"):
        assert (whole / file).read_bytes() == (resumed / file).read_bytes(), file
    assert [row["step"] for row in read_lines(resumed / "probe.jsonl")] == [0, 2, 4]


@pytest.mark.parametrize("name", ["idefics3", "qwen2_5_vl"])
def test_max_length_counts_a_picture_once_and_shortens_answers_alone(name, tmp_path, monkeypatch):
    family = Recorded(name)
    monkeypatch.chdir(RECORDED)
    dataset = plan_dataset(settings(*words(family, "forget_loss=ga")))
    ((_, row),) = dataset[0]
    prompt, tokens = row.labels.count(-100), family.rows[0]["image_tokens"]
    kept = prompt - tokens + 1 + 2
    dataset.max_length = kept
    ((_, shorter),) = dataset[0]
    assert (shorter.input_ids, shorter.labels) == (row.input_ids[: prompt + 2], row.labels[: prompt + 2])
    assert all(torch.equal(value, shorter.inputs[key]) for key, value in row.inputs.items())
    says = f"record 0, unsafe_pairs.0.model_response: a prompt of {kept - 2} tokens leaves no room"
    given = words(family, "forget_loss=ga", f"max_length={kept - 2}", f"save_dir={tmp_path / 'run'}")
    for more in ((), ("dry_run=true",)):
        refused(tmp_path, "forget", *given, *more, says=says, before="note: ")  # on whose answers the data hold
