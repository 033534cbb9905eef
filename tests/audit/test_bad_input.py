"""What audit.py refuses, before anything is written, and an adapter that tells nothing of its training."""

import json
import runpy
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, refused, settings, write_json

from safeeraser import model as models
from safeeraser.audit.options import Options
from safeeraser.audit.points import ACTIONS, references
from safeeraser.audit.protocol import read_protocol
from safeeraser.audit.relearn import relearning_settings
from safeeraser.audit.subjects import check, subjects
from safeeraser.benchmark.files import run_of
from safeeraser.benchmark.records import read_records
from safeeraser.generation.sampling import Generation
from safeeraser.judge.judges import Choice, Judging

GIVEN = ("--model_path", MODEL, "--val_file", TRAIN, "--train_file", VAL, "--judge", "rules")


def options_of(adapter, **more):
    """What audit.py makes of GIVEN."""
    given = {"limit": 30, "held_out": 1, "protocol": read_protocol(), "generation": Generation()} | more
    given |= {"controls": adapter.with_name("controls")}
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
        (("inside,relearned",), "unknown action 'relearned'; did you mean 'relearn'?"),
        (("--attacks", "flip,crops"), "--attacks: no attack 'crops'; did you mean 'crop'?"),
        (("--attacks", "told"), "--attacks: no attack 'told'"),
        (("inside", "--attacks", "flip"), "--attacks: of the action attacks, which is none of those"),
        (("--samples", "0"), "--samples: must be a whole number of at least 1"),
        (("--relearn", "nowhere.yaml"), "nowhere.yaml"),
        (("--tuned", "nowhere"), "nowhere: no adapter there"),
        (("--never_knew", "nowhere"), "nowhere"),
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
    everyone = subjects(options)
    audited = everyone["audited"]
    write_json(audited.begun, audited.settings(options) | {"limit": 3})
    check(options, everyone, dry_run=True)  # nothing has come of it yet
    write_json(audited.folder / "clean" / "clean" / "point.json", {})
    says = "begun with limit=3, now limit=30"
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, says=says)


def test_a_control_that_is_none(adapter, tmp_path):
    """An adapter that unlearns, and a model of another shape."""
    write_json(adapter / "run.json", {"settings": settings().model_dump(mode="json"), "engine": {"name": "single"}})
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, "--tuned", adapter, says="which unlearns")
    other = tmp_path / "never_knew"
    shutil.copytree(MODEL, other)
    told = json.loads((other / "config.json").read_text())
    told["text_config"]["num_hidden_layers"] += 1
    write_json(other / "config.json", told)
    says = "is of another num_hidden_layers"
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, "--never_knew", other, says=says)


def test_a_template_without_a_system_text_leaves_out_who_is_told(adapter, monkeypatch):
    options = options_of(adapter)
    monkeypatch.setattr(models, "load_preprocessor", lambda path: SimpleNamespace(takes_system=False))
    lacks = {point.subject.name: point.lacks for point in references(options, subjects(options))}
    assert "writes no system text" in lacks.pop("told") and set(lacks.values()) == {None}


def test_controls_are_found_beside_what_they_are_controls_of(adapter, tmp_path):
    """And are told apart by all that decides what they answer."""
    options = options_of(adapter)
    assert list(subjects(options)) == ["audited", "vanilla", "told"]
    found = subjects(options_of(adapter, tuned=adapter, never_knew=str(MODEL)))
    assert list(found) == ["audited", "vanilla", "told", "tuned", "never_knew"]
    folders = {control.folder for name, control in found.items() if name != "audited"}
    assert len(folders) == 4 and {folder.parent for folder in folders} == {tmp_path / "controls"}
    other = subjects(options_of(adapter, limit=10))
    assert other["vanilla"].folder != found["vanilla"].folder == subjects(options)["vanilla"].folder


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.json", [], "run.json: must hold an object, holds a list"),
        ("run.json", {"settings": None}, "run.json: settings: not those of a run of forget.py"),
        ("run.json", {"settings": {"forget_loss": "popd", "recipe": {}}}, "run.json: settings: not those"),
        ("adapter_config.json", [], "adapter_config.json: not the configuration of a LoRA"),
        ("audit/settings.json", [], "settings.json: must hold an object"),
        ("audit", "a file", "cannot be made (Not a directory)"),
    ],
)
def test_files_that_are_broken(adapter, tmp_path, file, content, says):
    write_json(adapter / file, content)
    if file == "audit/settings.json":
        write_json(adapter / "audit" / "clean" / "clean" / "point.json", {})
    given = GIVEN if file != "adapter_config.json" else GIVEN[2:]
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *given, says=says)


def test_an_adapter_trained_on_some_categories(adapter):
    """Nothing is asked, nor relearned, that was not to be forgotten."""
    told = settings("split=[Sex,Weapon]").model_dump(mode="json")
    write_json(adapter / "run.json", {"settings": told, "engine": {"name": "single", "processes": 1}})
    options = options_of(adapter)
    relearned = relearning_settings(str(MODEL), adapter / "audit", options.protocol, "retain", 1, options.data)
    assert relearned.split == ["Sex", "Weapon"]
    records = read_records(TRAIN)
    chosen = options.selection(("forget",)).records(records)
    assert {records.records[index].category for index in chosen} == {"Sex", "Weapon"} and len(chosen) == 2


def test_an_adapter_that_an_earlier_version_trained(adapter):
    """Its page had one projector and no type of model; what it was trained by is no matter."""
    told = run_of(ROOT / "tests" / "data" / "previous" / "popd")
    assert told["settings"]["model_family"]["projector"] == "multi_modal_projector"
    write_json(adapter / "run.json", told)
    assert options_of(adapter).split == told["settings"].get("split", "all")


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
