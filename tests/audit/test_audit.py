"""audit.py on the tiny model: every point, what the points must equal, resuming, sharing, and what is told missing."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, run, start

from safeeraser.audit import points as points_of
from safeeraser.benchmark.files import sha256
from safeeraser.infer import options as options_of_inference
from safeeraser.infer import run as run_of_inference
from safeeraser.infer.attacks import ATTACKS

pytestmark = pytest.mark.slow

# The training split is asked about, since it holds two records of each category: one to train on, one to ask about.
GIVEN = ("--val_file", TRAIN, "--train_file", VAL, "--max_new_tokens", 4, "--judge", "rules", "--dtype", "float32")
GIVEN += ("--steps", "1,3", "--limit", 1, "--max_blank", 1)  # random weights fall silent now and then
KEPT = {"adapter_model.safetensors", "adapter_config.json", "run.json"}
ALIKE = ("group", "name", "at", "metrics", "refusals")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of two optimizer steps at a rate so high that it answers otherwise than the untouched model."""
    folder = tmp_path_factory.mktemp("adapter") / "popd"
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "lr=0.03", "max_train_steps=2")
    done = run("forget", *given, "gradient_accumulation_steps=2", f"save_dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def fresh(adapter, folder):
    """A copy of the adapter that nobody has audited."""
    shutil.copytree(adapter, folder, ignore=shutil.ignore_patterns("audit*"))
    return folder


def audit(adapter, *more, action="all", code=0):
    done = run("audit", action, "--checkpoint_path", adapter, *GIVEN, *more)
    assert done.returncode == code, done.stderr
    return json.loads((adapter / "audit.json").read_text())


def points(card):
    """The card's points by group and name."""
    return {(point["group"], point["name"]): {key: point.get(key) for key in ALIKE} for point in card["points"]}


@pytest.fixture(scope="module")
def whole(adapter, tmp_path_factory):
    """An adapter with a whole audit, undisturbed."""
    folder = fresh(adapter, tmp_path_factory.mktemp("whole") / "popd")
    before = {path: sha256(path) for path in (*TRAIN.parent.rglob("*.*"), *folder.rglob("*.*"))}
    audit(folder)
    assert {path: sha256(path) for path in before} == before
    return folder


@pytest.fixture
def card(whole):
    return json.loads((whole / "audit.json").read_text())


def test_every_point_is_there(card):
    names = {group: [name for other, name in points(card) if other == group] for group, _ in points(card)}
    assert names == {
        "clean": ["clean"],
        "attack": list(ATTACKS),
        "attack_vanilla": list(ATTACKS),
        "quantization": ["int8", "int4", "nf4"],
        "scaling": ["0", "0.25", "0.5", "0.75", "1.25", "1.5", "1"],
        **{f"relearn_{view}": ["1", "3", "0"] for view in ("retain", "decoupled", "forget")},
    }
    assert card["missing"] == [] and card["method"] == "popd" and card["settings"]["judge"] == "rules"
    (clean,) = (point for point in card["points"] if point["group"] == "clean")
    views = ["forget", "decoupled", "retain", "image_free", "retain_benign", "retain_image_free"]
    assert list(clean["refusals"]) == views and list(clean["metrics"]) == ["asr", "rr", "rouge_l", "sarr", "recovered"]
    assert clean["metrics"]["asr"]["n"] == 6 * 12 and clean["metrics"]["sarr"]["n"] == 6 * 4
    assert all(rate["n"] == 24 for view, rate in clean["refusals"].items() if view != "forget")
    hidden = points(card)["attack", "figstep"]
    assert list(hidden["metrics"]) == ["asr", "rr", "recovered"], "nothing of a benign picture is left to ask about"


def test_the_ends_of_the_curves_are_the_clean_point(card):
    found = points(card)
    clean = found["clean", "clean"]["metrics"]
    assert found["scaling", "1"]["metrics"] == clean and found["scaling", "1"]["at"] == 1
    for view in ("retain", "decoupled", "forget"):
        point = found[f"relearn_{view}", "0"]
        assert point["metrics"] == {name: clean[name] for name in ("asr", "rr", "recovered", "sarr")}
        assert point["at"] == 0, "without ROUGE, which no other point of the curve has"


def asked(file):
    """The second record of each category in a file of two of each."""
    of_category = {}
    for value in json.loads(file.read_text("utf-8")):
        of_category.setdefault(value["category"], []).append(value)
    return [second for _, second in of_category.values()]


def responses(file, views):
    """The responses of a predictions file, those of the first record of each category left out."""
    fields = {
        "forget": ("model_response1", "model_response2", "model_response3"),
        "decoupled": ("sd_response",),
        "retain": ("Prediction",),
    }
    wanted = [field for view in views for field in fields[view]]
    found = []
    for value in asked(file):
        holders = [*value["unsafe_pairs"], *(value[key] for key in value if key.startswith("UnharmPair_"))]
        found += [holder[field] for holder in holders for field in wanted if field in holder]
    assert found and None not in found
    return found


def answer(out, *more):
    given = ("--model_path", MODEL, "--eval_file", TRAIN, "--dtype", "float32", "--max_new_tokens", 4)
    done = run("ckpt_infer", *given, "--output_file", out, *more)
    assert done.returncode == 0, done.stderr
    return out


VIEWS = ("forget", "decoupled", "retain")


def test_scale_0_is_the_untouched_model_and_scale_1_the_adapters_own_run(whole, tmp_path):
    vanilla = responses(answer(tmp_path / "vanilla.json"), VIEWS)
    own = responses(answer(tmp_path / "own.json", "--checkpoint_path", whole), VIEWS)
    assert vanilla != own
    assert responses(whole / "audit" / "scaling" / "0" / "predictions_val.json", VIEWS) == vanilla
    assert responses(whole / "audit" / "clean" / "clean" / "predictions_val.json", VIEWS) == own


def test_relearning_trains_on_what_no_point_is_asked_about(whole):
    for view, data, limit, items in (("retain", VAL, None, 6), ("decoupled", VAL, None, 6), ("forget", TRAIN, 1, 6)):
        told = json.loads((whole / "audit" / f"relearn_{view}" / "training" / "run.json").read_text())
        own = json.loads((whole / "run.json").read_text())["settings"]
        settings = told["settings"]
        assert settings["forget_loss"]["terms"] == {
            view: {"loss": "nll", "views": [view], "weight": 1.0, "positions": "answer"}
        }
        assert (settings["data_path"], settings["limit"], told["data"]["records"]) == (str(data), limit, items)
        assert (settings["lr"], settings["lr_scheduler_type"]) == (own["lr"], "constant")
        assert settings["gradient_accumulation_steps"] == 2
        for step in (1, 3):
            checkpoint = whole / "audit" / f"relearn_{view}" / "training" / f"checkpoint-{step}"
            assert {path.name for path in checkpoint.iterdir()} == KEPT
    predictions = whole / "audit" / "relearn_forget" / "1" / "predictions_val.json"
    answered = [v for v in json.loads(predictions.read_text()) if v["unsafe_pairs"][0]["model_response1"] is not None]
    assert answered == asked(predictions) and len(answered) == 6


def test_an_audit_killed_at_any_moment_ends_in_the_same_card(adapter, tmp_path, card):
    folder = fresh(adapter, tmp_path / "popd")
    # Within training, and twice within answering.
    for mark, seconds in (("[2/", 1.0), ("[4/", 0.3), ("[25/", 0.0)):
        process = start("audit", "--checkpoint_path", folder, *GIVEN)
        said = next(line for line in process.stderr if line.startswith(mark) or line.startswith("error"))
        assert mark in said
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (folder / "audit.json").exists()
    assert points(audit(folder)) == points(card)


def test_a_polite_kill_leaves_the_card(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    process = start("audit", "quantize", "--checkpoint_path", folder, *GIVEN)
    next(line for line in process.stderr if line.startswith("[2/"))
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    told = json.loads((folder / "audit.json").read_text())
    assert ("clean", "clean") in points(told) and "attack: not measured" in told["missing"]


@pytest.mark.parametrize("cut", [False, True])
def test_points_of_an_attack_that_was_changed_are_measured_anew(adapter, tmp_path, monkeypatch, cut):
    """Also those that were cut short before the change."""
    folder = fresh(adapter, tmp_path / "popd")
    monkeypatch.setattr(points_of, "ATTACKS", {"flip": ATTACKS["flip"]})
    before = points(audit(folder, action="attacks"))
    clean = folder / "audit" / "clean" / "clean" / "point.json"
    kept = clean.stat().st_mtime_ns
    if cut:
        flip = folder / "audit" / "attack" / "flip"
        settings = json.loads((flip / "predictions_val.run.json").read_text())["settings"]
        shutil.rmtree(flip)
        flip.mkdir()
        (flip / "predictions_val.json.partial.jsonl").write_text(json.dumps({"settings": settings}) + "\n")
    changed = replace(ATTACKS["flip"], code="another", picture=ATTACKS["noise"].picture)
    for module in (points_of, options_of_inference, run_of_inference):
        monkeypatch.setattr(module, "ATTACKS", {"flip": changed})
    after = points(audit(folder, action="attacks"))
    assert before["attack", "flip"] != after["attack", "flip"] and before["clean", "clean"] == after["clean", "clean"]
    assert clean.stat().st_mtime_ns == kept


def test_the_script_shares_the_points_among_processes_and_reports(adapter, tmp_path, card):
    folder = fresh(adapter, tmp_path / "popd")
    environment = os.environ | {"JOBS": "2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", ROOT / "scripts" / "audit.bash", "--checkpoint_path", folder, *GIVEN]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=RECORDED, env=environment)
    assert done.returncode == 0, done.stderr
    # Wherever they stand in a line: the other process's progress bar may be in it too.
    measured = re.findall(r"\[\d+/\d+\] ([\w. ]+): (?=\w+ [\d.–]+)", done.stderr)
    assert len(measured) == len(set(measured)) == len(points(card)) - 4, "each point once; four are the clean one"
    assert points(json.loads((folder / "audit.json").read_text())) == points(card)
    assert 'id="robustness"' in (folder / "report.html").read_text()


def test_another_protocol_judges_again_and_answers_nothing_anew(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    audit(folder, action="modality")
    predictions = folder / "audit" / "clean" / "clean" / "predictions_val.json"
    before = predictions.stat().st_mtime_ns
    assert audit(folder, "--protocol", "corrected", action="modality")["settings"]["protocol"] == "corrected"
    assert predictions.stat().st_mtime_ns == before
    assert "attack: not measured" in json.loads((folder / "audit.json").read_text())["missing"]


def test_a_picture_that_is_missing_is_told_and_mended(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    shutil.copytree(TRAIN.parent, tmp_path / "dataset")
    data = tmp_path / "dataset" / "all_train.json"
    picture = tmp_path / asked(data)[0]["image_path"]
    picture.rename(tmp_path / "away")
    done = run("audit", "quantize", "--checkpoint_path", folder, *GIVEN, "--val_file", data, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    told = json.loads((folder / "audit.json").read_text())
    assert {"clean clean: 16 responses are missing", "quantization int8: 12 responses are missing"} <= {
        *told["missing"]
    }
    (tmp_path / "away").rename(picture)
    done = run("audit", "quantize", "--checkpoint_path", folder, *GIVEN, "--val_file", data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (clean,) = (p for p in json.loads((folder / "audit.json").read_text())["points"] if p["group"] == "clean")
    assert clean["metrics"]["asr"]["n"] == 72


def test_a_training_that_broke_off(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    told = audit(folder, "--relearn_lr", 1e30, action="relearn", code=3)
    assert "relearn_forget 3: its training ended before" in told["missing"]
    assert any(line.startswith("relearn_forget 1: nothing was answered") for line in told["missing"])
    assert set(points(told)) == {("clean", "clean"), ("scaling", "0"), ("scaling", "1")}


def test_the_plan_of_an_audit(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    there = sorted(folder.rglob("*"))
    done = run("audit", "--checkpoint_path", folder, *GIVEN, "--dry_run")
    assert done.returncode == 0 and sorted(folder.rglob("*")) == there
    rows = {row[0]: row[1:] for row in (line.replace("│", " ").split() for line in done.stdout.splitlines()) if row}
    assert rows["clean"] == ["1", "0", str(6 * 32), "0"]
    assert rows["quantization"] == ["3", "0", str(3 * 6 * 16), "0"]
    judge = ("--judge", "openai", "--base_url", "http://127.0.0.1:9/v1", "--api_key", "k")
    done = run("audit", "--checkpoint_path", folder, *GIVEN, *judge, "--dry_run")
    rows = {row[0]: row[1:] for row in (line.replace("│", " ").split() for line in done.stdout.splitlines()) if row}
    # A record: 12 responses judged by ASR and RR; 4 by SARR; 4 by GPT-Eval; RR of those 8 and of 12 in the other views.
    assert rows["clean"][3] == str(6 * (2 * 12 + 4 + 4 + 8 + 12))
    assert rows["quantization"][3] == str(3 * 6 * (2 * 12 + 4))
