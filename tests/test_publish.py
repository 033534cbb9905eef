"""A finished run is sent to the hub: token and name are checked before training, and the run is sent after training.

tests/report/test_hub.py proves which files are sent and how each fault of the hub is reported.
"""

import json
import shutil
from dataclasses import replace

import pytest
from helpers import CHECKPOINT, MODEL, ROOT, TRAIN, refused, run
from hub_server import NOBODY, TOKEN, Hub, at
from unlearn.given import settings

from safeeraser.model.stored import convert
from safeeraser.publish import publish_after
from safeeraser.report.hub import ADAPTER
from safeeraser.unlearn.run import Unlearned

GIVEN = [f"model_path={MODEL}", f"data_path={TRAIN}", "forget_loss=popd", "dtype=float32", "workers=0", "limit=1"]
GIVEN += ["max_train_steps=1", "gradient_accumulation_steps=1"]
TO_HUB = ("push_to_hub=true", "hub_model_id=me/popd")


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.stop()


def forget(*words, url, token=TOKEN):
    with at(url, token):
        return run("forget", *GIVEN, *words)


def test_a_run_that_could_not_be_sent_does_not_begin(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    says = "push_to_hub: no token for the hub; set HF_TOKEN"
    with at(NOBODY, token=None):
        refused(tmp_path, "forget", *GIVEN, *TO_HUB, f"save_dir={tmp_path / 'run'}", says=says)


def test_a_finished_run_has_a_card_but_where_one_was_written_by_hand_and_is_whole_in_any_case(hub, tmp_path, caplog):
    caplog.set_level("INFO", "safeeraser.publish")
    said = lambda: [each.getMessage() for each in caplog.records if each.name == "safeeraser.publish"]  # noqa: E731
    folder = shutil.copytree(ROOT / "tests" / "data" / "previous" / "popd", tmp_path / "run")
    done, card = Unlearned.read(folder), folder / "README.md"
    plain, unsaved, sent = settings(), settings("save_model=false"), settings(*TO_HUB)
    assert publish_after(plain, done) is done and publish_after(plain, None) is None
    says = f"{folder}: holds neither an adapter nor a model (was it trained with save_model=false?)"
    assert said() == [f"note: no model card: {says}"] and not card.exists()
    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    for name in ADAPTER[:2]:
        shutil.copy(tmp_path / "adapter" / name, folder)
    unfinished = replace(done, record={key: value for key, value in done.record.items() if key != "finished"})
    for read, run_ in ((unsaved, done), (plain, unfinished)):
        assert publish_after(read, run_) is run_ and not card.exists()
    assert publish_after(plain, done) is done and "- name: run, mini" in (written := card.read_text())
    publish_after(plain, done)  # it overwrites its own card
    assert card.read_text() == written
    card.write_text("Mine.")
    publish_after(plain, done)
    assert card.read_text() == "Mine." and len(said()) == 1
    for more in ("", " --public"):
        hub.faults["/commit/"] = [403]
        with at(hub.url):
            failed = publish_after(settings(*TO_HUB, f"hub_private={str(not more).lower()}"), done)
        again = f"python -m safeeraser.report {folder} --model_card --push_to_hub me/popd{more}"
        assert said()[-1] == f"error: {failed.not_sent}; the run is complete in {folder}; send it with '{again}'"
    with at(hub.url):
        assert publish_after(sent, done) is done
    assert hub.repos["me/popd"]["private"] and hub.repos["me/popd"]["files"].keys() == set(ADAPTER)
    assert said()[-1].startswith("sent: ") and hub.repos["me/popd"]["files"]["README.md"] == b"Mine."


@pytest.mark.slow
def test_a_run_whose_sending_fails_is_whole_and_the_same_command_sends_it_again(hub, tmp_path):
    folder = tmp_path / "run"
    words = (*TO_HUB, f"save_dir={folder}")
    hub.faults["/commit/"] = [403]
    done = forget(*words, url=hub.url)
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert done.returncode == 3 and "the token may not write there (HTTP 403); the run is complete in" in line
    assert TOKEN not in done.stdout + done.stderr and "finished" in json.loads((folder / "run.json").read_text())
    # The same command skips the training.
    done, there = forget(*words, "resume_from_checkpoint=auto", url=hub.url), hub.repos["me/popd"]["files"]
    assert done.returncode == 0 and "done before" in done.stderr, done.stderr
    assert there["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    assert not any(TOKEN.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not any(TOKEN.encode() in body or str(ROOT).encode() in body for *_, body in hub.requests)
