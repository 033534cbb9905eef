"""What an audit asks: its points and what they take, its controls, categories, and what it refuses in one line."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, refused, run, settings, write_json

from safeeraser.audit.points import points_of
from safeeraser.audit.relearn import relearning_settings
from safeeraser.audit.subjects import check, subjects
from safeeraser.benchmark.files import run_of
from safeeraser.benchmark.records import read_records
from safeeraser.judge.judges import Choice, Judging

from .made_up import converted, options_of

GIVEN = ("--model_path", MODEL, "--val_file", TRAIN, "--train_file", VAL, "--judge", "rules")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return converted(tmp_path_factory.mktemp("converted") / "adapter")


@pytest.fixture
def adapter(original, tmp_path):
    return shutil.copytree(original, tmp_path / "adapter")


def rows(text):
    """The rows of a printed plan: of whom and which group -> the rest."""
    lines = (line.replace("│", " ").split() for line in text.splitlines())
    return {" ".join(row[:2]): [int(n) for n in row[2:]] for row in lines if len(row) == 6 and row[2].isdigit()}


def test_the_plan_counts_points_responses_and_what_is_read_and_what_judges_cost(adapter, tmp_path):
    """One record of each of six categories has four harmful and four harmless questions; nothing is written."""
    there = sorted(tmp_path.rglob("*"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"steps": [1, 3], "items": 2, "seeds": [1, 2]}))
    given = ("--limit", 1, "--relearn", tmp_path / "mine.yaml", "--attacks", "flip,pgd", "--dry_run", "--samples", 2)
    done = run("audit", "modality,inside,relearn,attacks,scale", "--checkpoint_path", adapter, *GIVEN, *given)
    assert done.returncode == 0, done.stderr
    q = 6 * 4
    plan = rows(done.stdout)
    pgd = plan["audited attack"][3]
    assert pgd > 10 * q, "it learns from each question by many steps"
    assert plan == {
        "audited clean": [1, 1, 7 * q, 0],  # six views, two samples of the first
        "controls clean": [2, 2, 2 * 7 * q, 0],
        # With two layers: depth 3 answers a question, extraction 3, likelihood 2, probe 4.
        **{f"{who} inside": [1, 1, 0, 12 * q] for who in ("audited", "controls")},
        # Of three steps with two items each, which count three times, two trainings; one of `text`, which has one seed.
        **{f"audited relearn_{name}": [4, 4, 4 * 2 * q, 2 * 3 * 2 * 3] for name in ("decoupled", "retain", "forget")},
        "audited relearn_text": [2, 2, 2 * 2 * q, 3 * 2 * 3],
        "audited attack": [2, 2, 2 * 3 * q, pgd],
        "controls attack": [2, 2, 2 * 2 * q, pgd],
        "audited scaling": [5, 5, 5 * 4 * q, 0],
    }
    assert "How long it takes is told when the first point is measured" in done.stdout
    judge = ("--judge", "openai", "--base_url", "http://127.0.0.1:9/v1", "--limit", 1, "--dry_run")
    done = run("audit", "quantize", "--checkpoint_path", adapter, *GIVEN, *judge)
    lines = (line.replace("│", " ").split() for line in done.stdout.splitlines())
    calls = {line[0]: int(line[2]) for line in lines if len(line) > 3 and line[0] in ("asr", "rr", "sarr", "gpt")}
    # Three clean points: 4 responses each judged by ASR, SARR and GPT-Eval, RR of all 24; three rounded: ASR, RR, SARR.
    assert calls == {"asr": 6 * 6 * 4, "sarr": 6 * 6 * 4, "gpt": 3 * 6 * 4, "rr": 3 * 6 * (24 + 4)}
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "mine.yaml") == there


def test_each_point_says_how_its_model_is_asked(adapter):
    options = options_of(adapter, tuned=adapter, never_knew=str(MODEL))
    everyone = subjects(options)
    found = {(p.subject.name, p.group, p.name): p for p in points_of(("all",), options, everyone)}
    six = ("forget", "decoupled", "retain", "image_free", "retain_benign", "retain_image_free")
    assert [found[name, "clean", "clean"].views for name in everyone] == [six] * 5
    assert [key[0] for key in found if key[1] == "inside"] == ["audited", "vanilla", "tuned", "never_knew"]
    assert {key[0] for key in found if key[1] == "relearn_text"} == {"audited", "tuned", "never_knew"}
    views = {name: found[name, "attack", "flip"].views for name in ("audited", "vanilla")}
    assert views == {"audited": ("forget", "decoupled"), "vanilla": ("forget",)}
    assert found["audited", "attack", "figstep"].views == ("forget",), "nothing of a benign picture is left to see"
    assert ("vanilla", "attack", "clipped") not in found and ("tuned", "attack", "clipped") in found
    how = [(key[2], p.temperature, p.samples) for key, p in found.items() if key[:2] == ("vanilla", "sampling")]
    assert how == [("0", 0.0, 1), ("0.7", 0.7, 10), ("1", 1.0, 10), ("1.3", 1.3, 10)]
    assert [p.scale for key, p in found.items() if key[1] == "scaling"] == [0.25, 0.5, 0.75, 1.25, 1.5]
    assert [p.quantization for key, p in found.items() if key[1] == "quantization"] == ["int8", "int4", "nf4"]
    last = found["tuned", "relearn_retain", "3-64"]
    assert (last.at, last.title, last.adapter.name) == (64, "tuned: relearn_retain 3-64", "checkpoint-64")
    assert last.model_path == str(everyone["tuned"].folder / "merged") and last.training.name == "seed-3"
    assert found["never_knew", "relearn_retain", "3-64"].model_path == str(MODEL)
    reasons = {p.lacks for key, p in found.items() if key[1] == "relearn_unrelated"}
    assert reasons == {f"{VAL.parent / 'instructions.json'} is not there"}
    few = points_of(("attacks", "modality"), options, everyone, ("crop",))
    assert [(p.group, p.name) for p in few if p.subject.name == "audited"] == [("clean", "clean"), ("attack", "crop")]


def test_a_control_has_a_folder_named_for_all_that_decides_its_answers(adapter, tmp_path):
    found = subjects(options_of(adapter, tuned=adapter, never_knew=str(MODEL)))
    assert list(found) == ["audited", "vanilla", "told", "tuned", "never_knew"]
    folders = {control.folder for name, control in found.items() if name != "audited"}
    assert len(folders) == 4 and {folder.parent for folder in folders} == {tmp_path / "controls"}
    plain, other = (subjects(options_of(adapter, **more)) for more in ({}, {"limit": 10}))
    assert list(plain) == ["audited", "vanilla", "told"]
    assert other["vanilla"].folder != found["vanilla"].folder == plain["vanilla"].folder


def test_an_adapter_trained_on_some_categories_is_asked_about_these_alone(adapter):
    told = settings("split=[Sex,Weapon]").model_dump(mode="json")
    write_json(adapter / "run.json", {"settings": told, "engine": {"name": "single", "processes": 1}})
    options, records = options_of(adapter), read_records(TRAIN)
    relearned = relearning_settings(str(MODEL), adapter / "audit", options.protocol, "retain", 1, options.data)
    assert relearned.split == ["Sex", "Weapon"]
    chosen = options.selection(("forget",)).records(records)
    assert [records.records[index].category for index in chosen] == ["Sex", "Weapon"]
    told["data"]["name"] = "own"
    write_json(adapter / "run.json", {"settings": told})
    assert options_of(adapter).split == "all", "one's own data have categories of their own"
    write_json(adapter / "run.json", run_of(ROOT / "tests" / "data" / "previous" / "popd"))
    assert options_of(adapter).split == "all", "an earlier version's page of a family had other keys"


def test_verdicts_are_told_apart_by_judges_rules_and_bounds_and_no_password_is_kept(adapter):
    options, key = options_of(adapter), options_of(adapter).judged_key
    choices = Choice("openai", "m", "http://me:hunter2@host/v1"), {"rr": Choice.parse("openai@http://a:b@c/v1")}
    served = replace(options, judging=Judging(*choices))
    assert served.judged_by["judge"]["base_url"] == "http://host/v1" and "hunter2" not in repr(served.judging)
    assert served.judged_by["judges"]["rr"]["base_url"] == "http://c/v1"
    keys = {each.judged_key for each in (options, served, replace(options, max_failed=0.5))}
    assert len(keys) == 3 and options_of(adapter).judged_key == key and options.judged_by["rules"]


REFUSED = [
    (("inside,relearned",), "unknown action 'relearned'; did you mean 'relearn'?"),
    (("--attacks", "flip,crops"), "--attacks: no attack 'crops'; did you mean 'crop'?"),
    (("--attacks", "told"), "--attacks: no attack 'told'"),
    (("inside", "--attacks", "flip"), "--attacks"),
    (("--samples", "0"), "--samples"),
    (("--limit", "0"), "--limit"),
    (("--seed", "-1"), "--seed"),
    (("--relearn", "nowhere.yaml"), "nowhere.yaml"),
    (("--tuned", "nowhere"), "nowhere"),
    (("--never_knew", "nowhere"), "nowhere"),
    (("--atack", "blur"), "unknown option '--atack'"),
    (("--val_file", "nowhere.json"), "nowhere.json"),
    (("--val_file", VAL), "--held_out"),  # of one record a category none is left
    (("--judge", "replay"), "replay"),
    (("--sarr_judge", "qwen3guard"), "qwen3guard"),
    (("--checkpoint_path", "none"), "none: no adapter there"),
    (("--checkpoint_path", RECORDED / "inference" / "checkpoint.pt"), "safeeraser.model convert"),
]


@pytest.mark.parametrize(("given", "says"), REFUSED)
def test_a_mistake_is_one_line_before_anything_is_written(original, given, says):
    refused(original.parent, "audit", "--checkpoint_path", original, *GIVEN, *given, says=says)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("run.json", [], "run.json"),
        ("run.json", {"settings": {"forget_loss": "popd", "recipe": {}}}, "run.json: settings"),
        ("adapter_config.json", [], "adapter_config.json"),
        ("audit/settings.json", [], "settings.json"),
        ("audit/settings.json", {"limit": 10}, "is of an earlier version"),
        ("audit", "a file", "cannot be made (Not a directory)"),
    ],
)
def test_a_broken_file_is_named(adapter, tmp_path, file, content, says):
    write_json(adapter / file, content)
    if file == "audit/settings.json":
        write_json(adapter / "audit" / "clean" / "clean" / "point.json", {})
    given = GIVEN if file != "adapter_config.json" else GIVEN[2:]
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *given, says=says)


def test_controls_of_another_shape_or_that_unlearn_and_launchers_are_refused(adapter, tmp_path, monkeypatch):
    given = ("--checkpoint_path", adapter, *GIVEN)
    write_json(adapter / "run.json", {"settings": settings().model_dump(mode="json"), "engine": {"name": "single"}})
    refused(tmp_path, "audit", *given, "--tuned", adapter, says="--tuned")
    other = shutil.copytree(MODEL, tmp_path / "never_knew")
    told = json.loads((other / "config.json").read_text())
    told["text_config"]["num_hidden_layers"] += 1
    write_json(other / "config.json", told)
    refused(tmp_path, "audit", *given, "--never_knew", other, says="num_hidden_layers")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(tmp_path, "audit", *given, says="start it once for each GPU instead")


def test_an_audit_goes_on_with_its_own_settings_alone(adapter, tmp_path):
    options = options_of(adapter)
    everyone = subjects(options)
    audited = everyone["audited"]
    write_json(audited.begun, audited.settings(options) | {"limit": 3})
    check(options, everyone, dry_run=True)  # nothing has come of it yet
    write_json(audited.folder / "clean" / "clean" / "point.json", {})
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, says="limit=3, now limit=30")
