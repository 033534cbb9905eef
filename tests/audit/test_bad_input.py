"""What audit.py refuses, before anything is written, and an adapter that tells nothing of its training."""

import runpy
from dataclasses import replace

import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, refused, settings, write_json

from safeeraser import model as models
from safeeraser.audit.further import relearning_settings
from safeeraser.audit.options import Options, check
from safeeraser.audit.points import ACTIONS
from safeeraser.benchmark.files import run_of
from safeeraser.benchmark.records import read_records
from safeeraser.generation.sampling import Generation
from safeeraser.judge.judges import Choice, Judging

STEPS = (1, 2, 4, 8, 16, 32, 64)
GIVEN = ("--model_path", MODEL, "--val_file", TRAIN, "--train_file", VAL, "--judge", "rules")


def options_of(adapter, **more):
    """What audit.py makes of GIVEN."""
    given = {"limit": 10, "held_out": 1, "steps": STEPS, "relearn_lr": None, "generation": Generation()} | more
    return Options(adapter, str(MODEL), VAL, TRAIN, judging=Judging(Choice("rules")), **given)


@pytest.fixture
def adapter(tmp_path):
    """The recorded checkpoint as a PEFT folder: no run.json tells how it was trained."""
    models.convert(RECORDED / "inference" / "checkpoint.pt", tmp_path / "adapter", model_path=str(MODEL))
    return tmp_path / "adapter"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("relearned",), "unknown action 'relearned'; did you mean 'relearn'?"),
        (("--steps", "1,x"), "--steps: must be whole numbers of at least 1"),
        (("--relearn_lr", "0"), "--relearn_lr must be above 0"),
        (("--limit", "0"), "--limit: must be a whole number of at least 1"),
        (("--atack", "blur"), "unknown option '--atack'"),
        (("--val_file", "nowhere.json"), "nowhere.json: no such file"),
        (
            ("--val_file", VAL),
            "no record is left once the first 1 of each category are skipped (--skip, or an audit's --held_out)",
        ),
        (("--judge_model", "gpt-4o"), "--judge rules is no model"),
        (("--judge", "replay"), "the judge replay knows recorded replies alone"),
        (("--sarr_judge", "qwen3guard"), "qwen3guard"),
        (("--relearn_lr", "inf"), "--relearn_lr must be above 0, and a finite number"),
        (("--seed", "-1"), "--seed must be at least 0"),
    ],
)
def test_a_mistake_is_one_line(adapter, tmp_path, given, says):
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, *given, says=says)


def test_the_command_line_knows_the_actions_there_are():
    """It does not ask the package, which would load torch."""
    assert set(runpy.run_path(str(ROOT / "audit.py"))["ACTIONS"]) == set(ACTIONS)


def test_an_adapter_that_is_not_there_or_is_a_file(tmp_path, adapter):
    refused(tmp_path, "audit", "--checkpoint_path", tmp_path / "none", *GIVEN, says="no adapter there")
    file = RECORDED / "inference" / "checkpoint.pt"
    refused(tmp_path, "audit", "--checkpoint_path", file, *GIVEN, says="'python -m safeeraser.model convert' makes")


def test_an_audit_goes_on_with_its_own_settings_alone(tmp_path, adapter):
    options = options_of(adapter)
    write_json(options.begun, options.settings | {"limit": 3})
    check(options, dry_run=True)  # nothing has come of it yet
    write_json(options.folder / "clean" / "clean" / "point.json", {})
    says = "begun with limit=3, now limit=10"
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, says=says)


def test_an_adapter_that_does_not_tell_how_it_was_trained(adapter):
    options = options_of(adapter, relearn_lr=0.5)
    relearned = relearning_settings(options, "retain")
    lora = relearned.LoRA
    assert (lora.r, lora.alpha, relearned.lr, relearned.tune_mm_projector) == (32, 256, 0.5, True)
    assert relearned.model_path == str(MODEL) and relearned.init_adapter == adapter


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.json", [], "run.json: must hold an object, holds a list"),
        ("run.json", {"settings": None}, "run.json: settings: not those of a run of forget.py"),
        ("run.json", {"settings": {"forget_loss": "popd", "recipe": {}}}, "run.json: settings: not those"),
        ("run.json", {"settings": {"forget_loss": {"name": "po"}, "recipe": {}}}, "run.json: config: "),
        ("run.json", {"settings": {"forget_loss": {"name": "po"}, "recipe": "new"}}, "run.json: recipe: no 'new'"),
        ("adapter_config.json", [], "adapter_config.json: not the configuration of a LoRA"),
        ("audit/settings.json", [], "settings.json: must hold an object"),
        ("audit", "a file", "relearn_retain/training: cannot be made (Not a directory)"),
    ],
)
def test_files_that_are_broken(adapter, tmp_path, file, content, says):
    write_json(adapter / file, content)
    if file == "audit/settings.json":
        write_json(adapter / "audit" / "clean" / "clean" / "point.json", {})
    given = GIVEN if file != "adapter_config.json" else GIVEN[2:]
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *given, says=says)


def test_an_adapter_trained_by_several_processes_on_some_categories(adapter):
    """One process takes the items a step that several took, and nothing is asked that was not to be forgotten."""
    told = settings("split=[Sex,Weapon]", "gradient_accumulation_steps=4").model_dump(mode="json")
    write_json(adapter / "run.json", {"settings": told, "engine": {"name": "zero2", "processes": 8}})
    options = options_of(adapter)
    relearned = relearning_settings(options, "retain")
    assert relearned.gradient_accumulation_steps == 32 and relearned.split == ["Sex", "Weapon"]
    assert relearned.gradient_checkpointing
    records = read_records(TRAIN)
    chosen = options.selection(("forget",)).records(records)
    assert {records.records[index].category for index in chosen} == {"Sex", "Weapon"} and len(chosen) == 2


def test_an_adapter_that_an_earlier_version_trained(adapter):
    """Its page had one projector and no type of model; the model's own page takes its place."""
    told = run_of(ROOT / "tests" / "data" / "previous" / "popd")
    assert told["settings"]["model_family"]["projector"] == "multi_modal_projector"
    write_json(adapter / "run.json", told)
    relearned = relearning_settings(options_of(adapter), "retain")
    assert relearned.model_family == models.family_of(str(MODEL)) and relearned.model_path == str(MODEL)
    assert relearned.LoRA.r == told["settings"]["LoRA"]["r"]


def test_what_was_set_for_the_method_alone_is_not_taken_over(adapter):
    """A weight of its forget term would turn the relearning around, a step or a mask would hinder it, and nobody
    asked to publish what comes of it."""
    given = ("recipe.weights.forget=-2", "step=sam", "mask={top: 0.1}", "push_to_hub=true", "hub_model_id=me/popd")
    given += ("+trainer={adam_beta2: 0.95}",)
    told = settings(*given).model_dump(mode="json")
    write_json(adapter / "run.json", {"settings": told, "engine": {"name": "single", "processes": 1}})
    relearned = relearning_settings(options_of(adapter), "forget")
    assert relearned.method.terms["forget"].weight == 1 and relearned.step.name == "plain"
    assert relearned.mask is None
    assert relearned.trainer == {"adam_beta2": 0.95} and not relearned.push_to_hub


def test_a_launcher_of_several_processes(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, says="start it once for each GPU instead")


def test_credentials_of_a_judges_address_are_in_no_file(adapter):
    judging = Judging(
        Choice("openai", "m", "http://me:hunter2@host/v1"), {"rr": Choice.parse("openai@http://a:b@c/v1")}
    )
    told = replace(options_of(adapter), judging=judging).judged_by
    assert told["judge"]["base_url"] == "http://host/v1" and told["judges"]["rr"]["base_url"] == "http://c/v1"
    assert "hunter2" not in repr(judging)


def test_points_judged_by_other_rules_are_not_taken_for_these(adapter, monkeypatch):
    told = options_of(adapter).judged_by
    assert told["rules"] and told["prompts"] and told["guards"] == {}
    monkeypatch.setattr("safeeraser.benchmark.wording.version", lambda: "other")
    assert options_of(adapter).judged_by != told
