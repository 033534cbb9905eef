"""The points of an audit and their cost, its controls, and the mistakes that it refuses in one line."""

import json
import shutil

import pytest
import yaml
from helpers import CHECKPOINT, MODEL, TRAIN, VAL, ran, read_beside, refusal, refused, run, write_json
from unlearn.given import settings

from safeeraser.audit.plan import points_of
from safeeraser.audit.relearn import read_protocol
from safeeraser.audit.subjects import check_subjects, subjects_of

from .made_up import converted, options_of

REFUSALS = read_beside(__file__, "refusals.yaml")
PLACES = {"VAL": VAL, "CHECKPOINT": CHECKPOINT}
GIVEN = ("--model_path", MODEL, "--val_file", TRAIN, "--train_file", VAL, "--judge", "rules")


@pytest.fixture
def adapter(tmp_path):
    return converted(tmp_path / "adapter")


def rows(text):
    """The rows of a printed plan: subject and group -> the numbers."""
    lines = (line.replace("│", " ").split() for line in text.splitlines())
    return {" ".join(row[:2]): [int(n) for n in row[2:]] for row in lines if len(row) == 6 and row[2].isdigit()}


def test_the_plan_counts_points_responses_and_what_is_read_and_what_judges_cost(adapter, tmp_path):
    """Six categories, one record each, with four harmful and four harmless questions. Nothing is written."""
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"steps": [1, 3], "items": 2, "seeds": [1, 2]}))
    given = ("--limit", 1, "--relearn", tmp_path / "mine.yaml", "--attacks", "flip,pgd", "--dry_run", "--samples", 2)
    done = ran("audit", "modality,inside,relearn,attacks,scale", "--checkpoint_path", adapter, *GIVEN, *given)
    q = 6 * 4
    plan = rows(done.stdout)
    pgd = plan["audited attack"][3]
    assert pgd > 10 * q, "it learns from each question by many steps"
    assert plan == {
        "audited clean": [1, 1, 7 * q, 0],  # six views, two samples of the first
        "controls clean": [2, 2, 2 * 7 * q, 0],
        # Answers read for each question, with two layers: depth 3, extraction 3, likelihood 2, probe 4.
        **{f"{who} inside": [1, 1, 0, 12 * q] for who in ("audited", "controls")},
        # Two trainings of three steps with two items each, which count three times; only one of `text`, for one seed.
        **{f"audited relearn_{name}": [4, 4, 4 * 2 * q, 2 * 3 * 2 * 3] for name in ("decoupled", "retain", "forget")},
        "audited relearn_text": [2, 2, 2 * 2 * q, 3 * 2 * 3],
        "audited attack": [2, 2, 2 * 3 * q, pgd],
        "controls attack": [2, 2, 2 * 2 * q, pgd],
        "audited scaling": [5, 5, 5 * 4 * q, 0],
    }
    judge = ("--judge", "openai", "--base_url", "http://127.0.0.1:9/v1", "--limit", 1, "--dry_run")
    done = run("audit", "quantize", "--checkpoint_path", adapter, *GIVEN, *judge)
    lines = (line.replace("│", " ").split() for line in done.stdout.splitlines())
    calls = {line[0]: int(line[2]) for line in lines if len(line) > 3 and line[0] in ("asr", "rr", "sarr", "gpt")}
    # Calls per record at 3 clean points: 4 ASR, 4 SARR, 4 GPT-Eval, 24 RR; at 3 rounded ones: 4 ASR, 4 SARR, 4 RR.
    assert calls == {"asr": 6 * 6 * 4, "sarr": 6 * 6 * 4, "gpt": 3 * 6 * 4, "rr": 3 * 6 * (24 + 4)}
    assert not (adapter / "audit").exists() and not (tmp_path / "controls").exists()


def test_each_point_says_how_its_model_is_asked(adapter):
    options = options_of(adapter, tuned=adapter, never_knew=str(MODEL))
    everyone = subjects_of(options)
    found = {(p.subject.name, p.group, p.name): p for p in points_of(("all",), options, everyone)}
    six = ("forget", "decoupled", "retain", "image_free", "retain_benign", "retain_image_free")
    assert [found[name, "clean", "clean"].views for name in everyone] == [six] * 5
    assert {key[0] for key in found if key[1] == "relearn_text"} == {"audited", "tuned", "never_knew"}
    assert found["audited", "attack", "figstep"].views == ("forget",), "nothing of a benign picture is left to see"
    how = [(key[2], p.temperature, p.samples) for key, p in found.items() if key[:2] == ("vanilla", "sampling")]
    assert how == [("0", 0.0, 1), ("0.7", 0.7, 10), ("1", 1.0, 10), ("1.3", 1.3, 10)]
    last = found["tuned", "relearn_retain", "3-64"]
    assert (last.at, last.adapter.name, last.relearned.training.name) == (64, "checkpoint-64", "seed-3")
    assert last.model_path == str(everyone["tuned"].folder / "merged")
    reasons = {p.lacks for key, p in found.items() if key[1] == "relearn_unrelated"}
    assert reasons == {f"{VAL.parent / 'instructions.json'} is not there"}
    # The name of a control's folder depends on everything that decides its answers.
    folders = {control.folder for name, control in everyone.items() if name != "audited"}
    assert len(folders) == 4 and {folder.parent for folder in folders} == {adapter.with_name("controls")}
    plain, other = (subjects_of(options_of(adapter, **more)) for more in ({}, {"limit": 10}))
    assert other["vanilla"].folder != everyone["vanilla"].folder == plain["vanilla"].folder


@pytest.mark.parametrize(("given", "says"), REFUSALS["command"])
def test_a_mistake_is_one_line_before_anything_is_written(adapter, tmp_path, given, says):
    given = [PLACES.get(word, word) for word in given]
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *GIVEN, *given, says=says)


@pytest.mark.parametrize(("file", "content", "says"), REFUSALS["files"])
def test_a_broken_file_is_named(adapter, tmp_path, file, content, says):
    write_json(adapter / file, content)
    if file == "audit/settings.json":
        write_json(adapter / "audit" / "clean" / "clean" / "point.json", {})
    given = GIVEN if file != "adapter_config.json" else GIVEN[2:]
    refused(tmp_path, "audit", "--checkpoint_path", adapter, *given, says=says)


@pytest.mark.parametrize(("keys", "says"), REFUSALS["protocol"])
def test_a_protocol_that_cannot_be_used_is_named_by_file_and_key(tmp_path, keys, says):
    (tmp_path / "mine.yaml").write_text(keys if isinstance(keys, str) else yaml.safe_dump(keys))
    assert refusal(read_protocol, tmp_path / "mine.yaml").startswith(f"{tmp_path / 'mine.yaml'}: {says}")


def test_controls_launchers_and_settings_that_do_not_fit_are_refused(adapter, tmp_path, monkeypatch):
    given = ("--checkpoint_path", adapter, *GIVEN)
    other = shutil.copytree(MODEL, tmp_path / "never_knew")
    told = json.loads((other / "config.json").read_text())
    told["text_config"]["num_hidden_layers"] += 1
    write_json(other / "config.json", told)
    refused(tmp_path, "audit", *given, "--never_knew", other, says="num_hidden_layers")
    options = options_of(adapter)
    everyone = subjects_of(options)
    audited = everyone["audited"]
    write_json(audited.begun, audited.settings(options) | {"limit": 3})
    check_subjects(options, everyone)  # no point has a file yet
    write_json(audited.folder / "clean" / "clean" / "point.json", {})
    refused(tmp_path, "audit", *given, says="limit=3, now limit=30")
    write_json(adapter / "run.json", {"settings": settings().model_dump(mode="json"), "engine": {"name": "single"}})
    refused(tmp_path, "audit", *given, "--tuned", adapter, says="--tuned")
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(tmp_path, "audit", *given, says="start it once for each GPU instead")
