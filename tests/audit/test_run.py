"""A complete audit of simulated models: the figures of each point, and that nothing is done twice.

The simulated engine refuses, or answers as in the data file. The simulated training only writes a training's files.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import MODEL, read_beside, record, write_dataset

from safeeraser.audit.relearn import read_protocol
from safeeraser.audit.run import INCOMPLETE, audit
from safeeraser.benchmark.adapters import described_by
from safeeraser.benchmark.files import read_object, write_json
from safeeraser.infer.requests import Unanswered
from safeeraser.infer.run import ENGINES

from .made_up import converted, options_of

REFUSAL = "I'm sorry, but I can't help with that."
FOUND = read_beside(__file__, "found.yaml")


class Played:
    """The adapter refuses harmful questions, unless it is attacked, scaled below 0.5, or relearned for three steps.

    Attributes:
        asked: the points that were answered, in order, each named by subject, group and name.
        trained: for each training, the name of the model's folder and the number of steps.
        lost: the point whose first response is lost.
    """

    def __init__(self, adapter):
        self.adapter, self.asked, self.trained, self.lost, self.batch_size = adapter, [], [], "", 8

    def engine(self, options, data, requests, *_):
        *_, folder, group, name = options.output_file.parent.parts
        self.asked.append(point := f"{folder.partition('-')[0]} {group} {name}")
        trained = options.checkpoint_path and options.checkpoint_path.name == "checkpoint-3"
        self.knows = not options.checkpoint_path or options.attack or options.adapter_scale < 0.5 or trained
        said = [(each, self.say(each, data.raw[each.record], options.attack)) for each in requests]
        said[0] = (requests[0], Unanswered("lost")) if point == self.lost else said[0]
        self.answer = lambda requests: [said[:1], said[1:]]
        return self, requests

    def say(self, request, value, attack):
        of, field = value[request.place[0]], request.place[-1]
        if attack == "told" or (field.startswith("model_response") and not self.knows):
            return REFUSAL
        if field.startswith("model_response"):
            return of[request.place[1]]["model_response"]
        return of["Prediction"] if isinstance(of, dict) else "It is a cup."

    def train(self, settings):
        self.trained.append((settings.model_path.rpartition("/")[2], settings.max_train_steps))
        for step in settings.save_steps[:2]:
            folder = Path(settings.save_dir, f"checkpoint-{step}")
            shutil.copytree(self.adapter, folder, ignore=shutil.ignore_patterns("audit*"))
            (folder / "optimizer.pt").touch()


@pytest.fixture
def played(tmp_path, monkeypatch):
    made = Played(converted(tmp_path / "popd"))
    monkeypatch.setitem(ENGINES, "local", made.engine)
    monkeypatch.setattr("safeeraser.audit.relearn.forget", made.train)
    monkeypatch.setattr("safeeraser.audit.relearn.merge", lambda adapter, folder, **_: shutil.copytree(MODEL, folder))
    return made


def test_a_whole_audit_and_what_another_one_finds_done(tmp_path, played, monkeypatch):
    monkeypatch.setattr("safeeraser.audit.plan.SCALES", (0.25, 1.5))
    data = write_dataset(tmp_path / "data", *(record(n) for n in range(3)))
    mine = {"steps": (1, 3, 9), "seeds": (1,), "attackers": {"mine": read_protocol().attackers["forget"]}}
    more = {"protocol": read_protocol().model_copy(update=mine), "val_file": data, "train_file": data}
    options = options_of(played.adapter, dtype="float32", **more)

    def audited(*actions):
        code = audit(replace(options, actions=actions, attacks=("flip",)))
        return code, json.loads(options.card.read_text())

    played.lost = "audit attack flip"
    code, card = audited("attacks", "scale", "relearn")
    gone = {"attack flip: 1 responses are missing", "relearn_mine 1-9: its training ended before"}
    assert code == INCOMPLETE and gone < {*card["missing"]} and played.asked == FOUND["asked"]
    assert played.trained == [("merged", 9)] and not list(played.adapter.rglob("optimizer.pt"))
    assert not (played.adapter / "audit" / "merged").exists()
    played.lost = ""
    code, card = audited("attacks")
    assert code == 0 and len(gone & {*card["missing"]}) == 1
    found = {f"{p['subject']} {p['group']} {p['name']}": p for p in card["points"]}
    values = {name: {key: of["value"] for key, of in point["metrics"].items()} for name, point in found.items()}
    assert values == FOUND["points"] and {of["n"] for p in found.values() for of in p["metrics"].values()} == {8}
    assert [one["text"] for one in card["findings"]] == FOUND["findings"]
    assert card["relearning"]["mine"]["audited"]["steps_to"] == {"0.1": pytest.approx(1.2), "0.5": 2, "half": 2}
    # A point without a result is judged again. It is asked again only if the attack's code has changed.
    flip = played.adapter / "audit" / "attack" / "flip"
    for point in (flip, *options.controls.glob("vanilla*/attack/flip")):
        next(point.glob("*/point.json")).unlink()
    beside = described_by(flip / "predictions_val.json")
    told = read_object(beside)
    write_json(beside, told | {"settings": told["settings"] | {"attack_code": "of another version"}})
    code, again = audited("attacks")
    assert code == 0 and again == card and played.asked == [*FOUND["asked"], *["audit attack flip"] * 2]
    assert played.trained == [("merged", 9)] and next(flip.glob("judged-*/score.log")).stat().st_size
