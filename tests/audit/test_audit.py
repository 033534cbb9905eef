"""audit.py on the tiny model: one complete audit, which all tests read; SIGKILL, and processes that share points."""

import re
import shutil

import pytest
import yaml
from helpers import MODEL, RECORDED, TRAIN, VAL, fork, kill_once, run, trained

from safeeraser.benchmark.files import read_json as records
from safeeraser.benchmark.files import sha256

pytestmark = pytest.mark.slow

# Questions come from the training split: it has two records per category, one to train on and one to ask about.
GIVEN = ["--val_file", TRAIN, "--train_file", VAL, "--max_new_tokens", 3, "--judge", "rules", "--dtype", "float32"]
GIVEN += ["--limit", 1, "--max_blank", 1]  # random weights give a blank response now and then
ATTACKS = ("--attacks", "flip,refusal_direction")
PROTOCOL = {"rank": 4, "alpha": 8, "items": 2, "steps": [1, 2], "seeds": [1], "gradient_checkpointing": False}
PROTOCOL |= {"attackers": {"mine": {"view": "forget", "data": "held_out"}}}
ALIKE = ("metrics", "refusals", "measures", "asr_at", "to_clean", "to_vanilla", "seeds")


def audit(adapter, *more, action="all", code=0):
    done = run("audit", action, "--checkpoint_path", adapter, *GIVEN, *more, cwd=RECORDED)
    assert done.returncode == code, done.stderr
    return records(adapter / "audit.json")


def points(card):
    """The card's points by subject, group and name."""
    places = ("subject", "group", "name")
    return {tuple(point[key] for key in places): {key: point.get(key) for key in ALIKE} for point in card["points"]}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter of one category that was not audited; two optimizer steps at a high rate have changed its answers."""
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "relearn.yaml").write_text(yaml.safe_dump(PROTOCOL))
    GIVEN.extend(("--relearn", folder / "relearn.yaml"))
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "lr=0.03", "max_train_steps=2")
    return trained(folder / "popd", *given, "gradient_accumulation_steps=2", "split=[Weapon]")


@pytest.fixture(scope="module")
def whole(adapter, tmp_path_factory):
    """An adapter with a complete, undisturbed audit, which has changed neither the data nor the adapter."""
    folder = shutil.copytree(adapter, tmp_path_factory.mktemp("whole") / "popd")
    before = {path: sha256(path) for path in (*TRAIN.parent.rglob("*.*"), *folder.rglob("*.*"))}
    audit(folder, *ATTACKS)
    assert {path: sha256(path) for path in before} == before
    return folder


def test_every_point_is_measured(whole):
    card, names = records(whole / "audit.json"), {}
    for subject, group, name in points(card):
        names.setdefault((subject, group), []).append(name)
    assert names == {
        **{(subject, "clean"): ["clean"] for subject in ("audited", "vanilla", "told")},
        **{(subject, "inside"): ["inside"] for subject in ("audited", "vanilla")},
        **{(subject, "sampling"): ["0", "0.7", "1", "1.3"] for subject in ("audited", "vanilla")},
        **{(subject, "attack"): ["flip", "refusal_direction"] for subject in ("audited", "vanilla")},
        ("audited", "quantization"): ["int8", "int4", "nf4"],
        ("audited", "scaling"): ["0.25", "0.5", "0.75", "1.25", "1.5", "1", "0"],
        ("audited", "relearn_mine"): ["0", "1", "2"],
    }
    assert card["method"] == "popd" and card["shares_to"] == "floor" and card["format"] == 2
    found = points(card)
    clean = found["audited", "clean", "clean"]
    assert len(clean["refusals"]) == 6 and {rate["n"] for rate in clean["refusals"].values()} == {4}
    assert list(clean["metrics"]) == ["asr", "rr", "rouge_l", "sarr", "recovered"]
    assert {"gap", "exact_3", "depth", "depth_1", "probe"} < found["vanilla", "inside", "inside"]["measures"].keys()
    # The ends of the curve are the adapter as it is and the untouched model.
    assert found["audited", "scaling", "1"]["metrics"] == clean["metrics"]
    assert found["audited", "scaling", "0"]["metrics"] == found["vanilla", "clean", "clean"]["metrics"]


def test_the_points_are_what_inference_answers_with_the_adapter_and_without(whole, tmp_path):
    (vanilla,) = (whole.parent / "controls").glob("vanilla-*")
    given = ("--model_path", MODEL, "--eval_file", TRAIN, "--dtype", "float32", "--max_new_tokens", 3)
    for folder, more in ((vanilla, ()), (whole / "audit", ("--checkpoint_path", whole))):
        out = tmp_path / f"{len(more)}.json"
        assert run("ckpt_infer", *given, "--only", "forget,decoupled", "--output_file", out, *more).returncode == 0
        compared = 0
        for one, other in zip(records(folder / "clean/clean/predictions_val.json"), records(out), strict=True):
            for pair, its in zip(one["unsafe_pairs"], other["unsafe_pairs"], strict=True):
                if pair["model_response1"] is not None:
                    compared += 1
                    assert all(pair[key] == its[key] for key in ("model_response1", "sd_response"))
        assert compared == 4
    # Relearning trains on the category's first record, about which no point is asked.
    predictions = records(whole / "audit/relearn_mine/1-1/predictions_val.json")
    answered = [n for n, v in enumerate(predictions) if v["unsafe_pairs"][0]["model_response1"] is not None]
    assert answered == [n for n, value in enumerate(predictions) if value["category"] == "Weapon"][1:]
    assert not (whole / "audit" / "merged").exists(), "as large as the model, and nothing is left to be trained on it"


def test_killed_while_it_answers_and_while_it_trains_it_ends_in_the_same_card(adapter, tmp_path, whole):
    """Two processes resume it and share the points that are left; each point is measured once."""
    folder, logs = shutil.copytree(adapter, tmp_path / "popd"), [tmp_path / name for name in ("one.log", "two.log")]
    given = ("all", "--checkpoint_path", folder, *GIVEN, *ATTACKS)
    for place in ("audit/**/*.partial.jsonl", "audit/relearn_mine/seed-1/training/checkpoint-1/*"):
        kill_once(lambda place=place: any(folder.glob(place)), fork("audit", *given))
    assert not (folder / "audit.json").exists()
    there = len(list(tmp_path.rglob("point.json")))
    both = [fork("audit", *given, log=log) for log in logs]
    for process in both:
        process.join()
    said = "".join(log.read_text() for log in logs)
    assert [process.exitcode for process in both] == [0, 0], said
    measured = re.findall(r"\[\d+/\d+\] ((?:\w+: )?[\w.-]+ [\w.-]+): (?=\w+ [-\d.–]+)", said)
    (every,) = set(re.findall(r"\[\d+/(\d+)\]", said))
    assert there and len(measured) == len(set(measured)) == int(every) - there, "each point once"
    assert points(records(folder / "audit.json")) == points(records(whole / "audit.json"))
