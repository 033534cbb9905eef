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
import yaml
from helpers import MODEL, RECORDED, ROOT, TRAIN, VAL, refused, run, start, write_json

from safeeraser.audit import points as points_of
from safeeraser.audit.protocol import read_protocol
from safeeraser.benchmark.files import sha256
from safeeraser.infer import options as options_of_inference
from safeeraser.infer import run as run_of_inference
from safeeraser.infer.attacks import ATTACKS

pytestmark = pytest.mark.slow

# The training split is asked about, since it holds two records of each category: one to train on, one to ask about.
GIVEN = ["--val_file", TRAIN, "--train_file", VAL, "--max_new_tokens", 4, "--judge", "rules", "--dtype", "float32"]
GIVEN += ["--limit", 1, "--max_blank", 1]  # random weights fall silent now and then
ATTACKERS = ("decoupled", "retain", "forget", "text")
NO_FILE = "unrelated"  # it wants instructions beside the training data
PROTOCOL = {"rank": 4, "alpha": 8, "items": 2, "steps": [1, 3], "seeds": [1, 2], "gradient_checkpointing": False}
PROTOCOL |= {"attackers": {name: read_protocol().attackers[name].model_dump() for name in (*ATTACKERS, NO_FILE)}}
ALIKE = ("metrics", "refusals", "measures", "asr_at", "to_clean", "to_vanilla", "seeds")


@pytest.fixture(scope="module", autouse=True)
def protocol(tmp_path_factory):
    """Relearning of two small steps."""
    file = tmp_path_factory.mktemp("protocol") / "relearn.yaml"
    file.write_text(yaml.safe_dump(PROTOCOL))
    GIVEN.extend(("--relearn", file))


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
    """The card's points by subject, group and name."""
    places = ("subject", "group", "name")
    return {tuple(point[key] for key in places): {key: point.get(key) for key in ALIKE} for point in card["points"]}


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
    names = {}
    for subject, group, name in points(card):
        names.setdefault((subject, group), []).append(name)
    attacks = [name for name, attack in ATTACKS.items() if not attack.control]
    temperatures = ["0", "0.7", "1", "1.3"]
    assert names == {
        **{(subject, "clean"): ["clean"] for subject in ("audited", "vanilla", "told")},
        **{(subject, "inside"): ["inside"] for subject in ("audited", "vanilla")},
        **{(subject, "sampling"): temperatures for subject in ("audited", "vanilla")},
        ("audited", "attack"): attacks,
        ("vanilla", "attack"): [name for name in attacks if not ATTACKS[name].adapter],
        ("audited", "quantization"): ["int8", "int4", "nf4"],
        ("audited", "scaling"): ["0.25", "0.5", "0.75", "1.25", "1.5", "1", "0"],
        **{("audited", f"relearn_{name}"): ["0", "1", "3"] for name in ATTACKERS},
    }
    assert card["missing"] == [f"relearn_unrelated: {VAL.parent / 'instructions.json'} is not there"]
    assert card["method"] == "popd" and card["settings"]["judge"] == "rules"
    assert list(card["controls"]) == ["vanilla", "told"] and card["shares_to"] == "floor" and card["format"] == 2
    clean = next(point for point in card["points"] if point["group"] == "clean")
    views = ["forget", "decoupled", "retain", "image_free", "retain_benign", "retain_image_free"]
    assert list(clean["refusals"]) == views and list(clean["metrics"]) == ["asr", "rr", "rouge_l", "sarr", "recovered"]
    assert clean["metrics"]["asr"]["n"] == 6 * 4 and clean["metrics"]["sarr"]["n"] == 6 * 4, "one sample of each"
    assert all(rate["n"] == 24 for rate in clean["refusals"].values())
    hidden = points(card)["audited", "attack", "figstep"]
    assert list(hidden["metrics"]) == ["asr", "rr", "recovered"], "nothing of a benign picture is left to ask about"


def test_the_ends_of_the_curves_are_the_models_as_they_are(card):
    found = points(card)
    clean = found["audited", "clean", "clean"]["metrics"]
    assert found["audited", "scaling", "1"]["metrics"] == clean
    assert found["audited", "scaling", "0"]["metrics"] == found["vanilla", "clean", "clean"]["metrics"]
    for name in ATTACKERS:
        start = found["audited", f"relearn_{name}", "0"]["metrics"]
        assert {key: value["value"] for key, value in start.items()} == {key: clean[key]["value"] for key in start}
        assert list(found["audited", f"relearn_{name}", "3"]["seeds"]) == (["1"] if name == "text" else ["1", "2"])


def test_differences_are_told_with_what_they_are_held_against(card):
    """To the model without the attack and to the untouched one, whose own are to itself without it."""
    found = points(card)
    blur = found["audited", "attack", "blur"]
    assert set(blur["to_clean"]) == {"asr", "rr", "recovered", "sarr"} and set(blur["to_vanilla"]) < set(
        blur["to_clean"]
    )
    assert all(0 <= one["p"] <= one["q"] <= 1 for one in blur["to_clean"].values())
    assert not found["vanilla", "attack", "blur"]["to_clean"], "of the audited model alone"
    asr, before = (found["audited", "attack", name]["metrics"]["asr"] for name in ("blur", "flip"))
    assert (
        blur["to_clean"]["asr"]["value"]
        == pytest.approx(asr["value"] - found["audited", "clean", "clean"]["metrics"]["asr"]["value"])
        and before["n"] == asr["n"]
    )


def test_a_control_is_measured_once_for_all_audits_with_the_same_settings(whole, adapter, tmp_path):
    """Those with other settings have a folder of their own."""
    folder = fresh(adapter, tmp_path / "popd")
    controls = whole.parent / "controls"
    before = {path: path.stat().st_mtime_ns for path in controls.rglob("point.json")}
    audit(folder, "--controls", controls, action="modality")
    assert {path: path.stat().st_mtime_ns for path in controls.rglob("point.json")} == before
    audit(
        folder,
        "--controls",
        controls,
        "--limit",
        2,
        "--val_file",
        VAL,
        "--train_file",
        TRAIN,
        action="quantize",
        code=2,
    )
    assert len(list(controls.iterdir())) == 2


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


def test_clean_points_are_the_models_own_runs(whole, tmp_path):
    """What ckpt_infer.py draws: of the forget view the first of its three samples, since one is asked for."""
    (vanilla,) = (whole.parent / "controls").glob("vanilla-*")
    for folder, more in ((vanilla, ()), (whole / "audit", ("--checkpoint_path", whole))):
        mine = json.loads((folder / "clean" / "clean" / "predictions_val.json").read_text())
        own = json.loads(answer(tmp_path / f"{len(more)}.json", *more).read_text())
        for one, other in zip(mine, own, strict=True):
            for pair, its in zip(one["unsafe_pairs"], other["unsafe_pairs"], strict=True):
                its |= dict.fromkeys(("model_response2", "model_response3"))
                if pair["model_response1"] is not None:
                    assert {key: pair[key] for key in its} == its


def test_relearning_trains_on_what_no_point_is_asked_about(whole):
    told = json.loads((whole / "audit" / "relearn_forget" / "seed-2" / "training" / "run.json").read_text())
    settings = told["settings"]
    assert (settings["data_path"], settings["limit"], told["data"]["records"]) == (str(TRAIN), 1, 6)
    merged = whole / "audit" / "merged"
    assert settings["model_path"] == str(merged) and settings["seed"] == 2
    assert not merged.exists(), "it is as large as the model, and nothing is left to be trained on it"
    predictions = whole / "audit" / "relearn_forget" / "2-1" / "predictions_val.json"
    answered = [v for v in json.loads(predictions.read_text()) if v["unsafe_pairs"][0]["model_response1"] is not None]
    assert [one["image_path"] for one in answered] == [one["image_path"] for one in asked(predictions)]


def test_an_audit_killed_at_any_moment_ends_in_the_same_card(adapter, tmp_path, card):
    folder = fresh(adapter, tmp_path / "popd")
    # While it answers, looks inside, trains, and learns an attack.
    for mark, seconds in (("[2/", 0.3), ("[4/", 0.3), ("[5/", 1.0), ("[40/", 0.0)):
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
    assert ("audited", "clean", "clean") in points(told) and "attack: not measured" in told["missing"]


@pytest.mark.parametrize("cut", [False, True])
def test_points_of_an_attack_that_was_changed_are_measured_anew(adapter, tmp_path, monkeypatch, cut):
    """Also those that were cut short before the change."""
    folder = fresh(adapter, tmp_path / "popd")
    few = {name: ATTACKS[name] for name in ("flip", "told")}
    monkeypatch.setattr(points_of, "ATTACKS", few)
    before = points(audit(folder, action="attacks"))
    (clean,) = (folder / "audit" / "clean" / "clean").glob("*/point.json")
    kept = clean.stat().st_mtime_ns
    if cut:
        place = folder / "audit" / "attack" / "flip"
        settings = json.loads((place / "predictions_val.run.json").read_text())["settings"]
        shutil.rmtree(place)
        place.mkdir()
        (place / "predictions_val.json.partial.jsonl").write_text(json.dumps({"settings": settings}) + "\n")
    changed = replace(ATTACKS["flip"], code="another", picture=ATTACKS["noise"].picture)
    for module in (points_of, options_of_inference, run_of_inference):
        monkeypatch.setattr(module, "ATTACKS", few | {"flip": changed})
    after = points(audit(folder, action="attacks"))
    flip, clean_point = ("audited", "attack", "flip"), ("audited", "clean", "clean")
    assert before[flip] != after[flip] and before[clean_point] == after[clean_point]
    assert clean.stat().st_mtime_ns == kept


def test_some_actions_and_of_the_attacks_some(adapter, tmp_path):
    """What is measured stays on the card, whatever is asked for next."""
    folder = fresh(adapter, tmp_path / "popd")
    first = points(audit(folder, "--attacks", "flip", action="scale,attacks"))
    assert {group for _, group, _ in first} == {"clean", "scaling", "attack"}
    assert {name for _, group, name in first if group == "attack"} == {"flip"}
    both = points(audit(folder, "--attacks", "crop", action="attacks"))
    assert {name for _, group, name in both if group == "attack"} == {"flip", "crop"} and first.keys() < both.keys()


def test_the_script_shares_the_points_among_processes_and_reports(adapter, tmp_path, card):
    folder = fresh(adapter, tmp_path / "popd")
    environment = os.environ | {"JOBS": "2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = ["bash", ROOT / "scripts" / "audit.bash", "--checkpoint_path", folder, *GIVEN]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=RECORDED, env=environment)
    assert done.returncode == 0, done.stderr
    # Wherever they stand in a line: the other process's progress bar may be in it too.
    measured = re.findall(r"\[\d+/\d+\] ((?:\w+: )?[\w.-]+ [\w.-]+): (?=\w+ [-\d.–]+)", done.stderr)
    (every,) = set(re.findall(r"\[\d+/(\d+)\]", done.stderr))
    lacking = 2  # whose file is not there
    assert len(measured) == len(set(measured)) == int(every) - lacking, "each point once"
    assert points(json.loads((folder / "audit.json").read_text())) == points(card)
    assert 'id="robustness"' in (folder / "report.html").read_text()


def test_another_protocol_judges_again_and_answers_nothing_anew(adapter, tmp_path):
    """And takes nothing from the first one, whose verdicts lie beside its own, of the controls too."""
    folder = fresh(adapter, tmp_path / "popd")
    audit(folder, action="modality")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.json") if path != folder / "audit.json"}
    assert audit(folder, "--protocol", "corrected", action="modality")["settings"]["protocol"] == "corrected"
    told = audit(folder, action="modality")
    assert told["settings"]["protocol"] == "official" and "attack: not measured" in told["missing"]
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if before[path] != after[path]} <= {"settings.json"}


def test_a_picture_that_is_missing_is_told_and_mended(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    shutil.copytree(TRAIN.parent, tmp_path / "dataset")
    data = tmp_path / "dataset" / "all_train.json"
    picture = tmp_path / asked(data)[0]["image_path"]
    picture.rename(tmp_path / "away")
    done = run("audit", "quantize", "--checkpoint_path", folder, *GIVEN, "--val_file", data, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    told = json.loads((folder / "audit.json").read_text())
    lost = {"clean clean: 8 responses are missing", "vanilla: clean clean: 8 responses are missing"}
    assert {*lost, "quantization: 4 responses are missing"} <= {*told["missing"]}, "of three points alike one line"
    (tmp_path / "away").rename(picture)
    done = run("audit", "quantize", "--checkpoint_path", folder, *GIVEN, "--val_file", data, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    clean = points(json.loads((folder / "audit.json").read_text()))["audited", "clean", "clean"]
    assert clean["metrics"]["asr"]["n"] == 24


def test_a_training_that_broke_off(adapter, tmp_path):
    folder, mine = fresh(adapter, tmp_path / "popd"), tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(PROTOCOL | {"lr": 1e30, "seeds": [1]}))
    told = audit(folder, "--relearn", mine, action="relearn", code=3)
    assert "relearn_forget 1-3: its training ended before" in told["missing"]
    assert any(line.startswith("relearn_forget 1-1: nothing was answered") for line in told["missing"])
    assert {place[:2] for place in points(told)} == {(name, "clean") for name in ("audited", "vanilla", "told")}


def table(done):
    """The rows of a printed plan: of whom and which group -> the rest."""
    lines = (line.replace("│", " ").split() for line in done.stdout.splitlines())
    return {tuple(row[:2]): row[2:] for row in lines if len(row) > 2}


def test_the_plan_of_an_audit(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    there = sorted(folder.rglob("*"))
    done = run("audit", "--checkpoint_path", folder, *GIVEN, "--dry_run")
    assert done.returncode == 0 and sorted(folder.rglob("*")) == there, done.stderr
    rows = table(done)
    assert rows["audited", "clean"] == ["1", "1", str(6 * 24), "0"]
    assert rows["controls", "clean"] == ["2", "2", str(2 * 6 * 24), "0"]
    assert rows["audited", "sampling"] == ["4", "4", str(6 * 4 * 31), "0"]
    # Two seeds of three steps with two items each, which count three times.
    assert rows["audited", "relearn_decoupled"] == ["4", "4", str(4 * 6 * 4), str(2 * 3 * 2 * 3)]
    assert "How long it takes is told when the first point is measured" in done.stdout
    audit(folder, action="modality")
    done = run("audit", "--checkpoint_path", folder, *GIVEN, "--dry_run")
    assert table(done)["audited", "clean"] == ["1", "0", "0", "0"]
    assert re.search(r"About \d+ minutes on one process", done.stdout)


def test_the_plan_tells_what_a_judge_costs(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    judge = ("--judge", "openai", "--base_url", "http://127.0.0.1:9/v1", "--api_key", "k")
    done = run("audit", "quantize", "--checkpoint_path", folder, *GIVEN, *judge, "--dry_run")
    assert done.returncode == 0, done.stderr
    rows = (line.replace("│", " ").split() for line in done.stdout.splitlines())
    calls = {row[0]: int(row[2]) for row in rows if len(row) > 3 and row[0] in ("asr", "rr", "sarr", "gpt")}
    # Three clean points: each record has 4 responses judged by ASR, 4 by SARR, 4 by GPT-Eval; RR of all 24. Three
    # rounded ones: 4 by ASR and RR, 4 by SARR.
    assert calls == {"asr": 6 * 6 * 4, "sarr": 6 * 6 * 4, "gpt": 3 * 6 * 4, "rr": 3 * 6 * (24 + 4)}


def test_an_audit_of_an_earlier_version_is_refused_in_one_line(adapter, tmp_path):
    folder = fresh(adapter, tmp_path / "popd")
    write_json(folder / "audit" / "settings.json", {"limit": 10})
    write_json(folder / "audit" / "clean" / "clean" / "point.json", {})
    refused(tmp_path, "audit", "--checkpoint_path", folder, *GIVEN, says="is of an earlier version")
