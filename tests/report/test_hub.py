"""The hub, played by a server on this machine, gets weights and card and nothing else; only a header has the token.

A fault of the hub is reported in one line, and the run stays as it was.
"""

import json

import pytest
from helpers import run
from hub_server import NOBODY, TOKEN, Hub, at

from safeeraser.report import hub as sending
from safeeraser.report.hub import ADAPTER, files_to_send

from .made_up_runs import RUN, change, metric, write

SENT = set(ADAPTER)
SECRETS = ("plan.json", "state.json", "training_args.bin", "verdicts_val.json", "predictions_val.json")


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(sending, "WAITS", (0, 0))  # seconds
    server = Hub()
    yield server
    server.stop()


@pytest.fixture
def finished(tmp_path):
    """A finished run whose base model is in a local folder, with further files that nobody else is to see."""
    folder, settings = tmp_path / "popd", RUN["settings"] | {"model_path": "/b"}
    write(folder, "run.json", RUN | {"base": {"weights": "f" * 64}, "settings": settings})
    write(folder, "adapter_config.json", {"r": 32, "base_model_name_or_path": "/b", "auto": [{"_name_or_path": "/b"}]})
    write(folder, "adapter_model.safetensors", "weights")
    for name in SECRETS:
        write(folder, name, '[{"question": "Secret?"}]')
    return folder


def send(folder, *words, url):
    with at(url):
        return run("safeeraser.report", folder, "--model_card", "--push_to_hub", "me/popd", *words)


def test_weights_and_card_are_sent_and_nothing_else(hub, finished):
    write(finished, "summary_val.json", {"split": "val", "asr": metric(0.25, 0.1, 0.4), "judge": "rules"})
    done = send(finished, url=hub.url)
    assert (done.returncode, done.stdout) == (0, f"sent: {hub.url}/me/popd\n"), done.stderr
    there = hub.repos["me/popd"]
    assert there["private"] and there["files"].keys() == SENT
    card = there["files"]["README.md"].decode()
    assert card == (finished / "README.md").read_text() and '"me/popd"' in card and "| 25.0 | 10.0–40.0 |" in card
    told = json.loads(there["files"]["adapter_config.json"])
    assert told == {"r": 32, "base_model_name_or_path": None, "auto": [{"_name_or_path": None}]}
    for method, path, headers, body in hub.requests:
        assert TOKEN not in path and TOKEN.encode() not in body, (method, path)
        assert [name for name, value in headers.items() if TOKEN in value] in ([], ["authorization"])
        assert not path.startswith("/store/") or "authorization" not in headers
    assert TOKEN not in done.stdout + done.stderr + "".join(path.read_text() for path in finished.iterdir())
    there["private"] = False
    done = send(finished, url=hub.url)
    assert done.returncode == 2 and "me/popd is public; hub_private=false (or --public)" in done.stderr
    change(finished, "run.json", base=RUN["base"], settings=RUN["settings"] | {"model_path": "me/base"})
    assert send(finished, "--public", url=hub.url).returncode == 0
    assert json.loads(there["files"]["adapter_config.json"])["base_model_name_or_path"] == "me/base"


def test_what_of_a_folder_may_go(tmp_path):
    """For a full model: weights in any number of parts, configuration, tokenizer, processor and card."""
    parts = {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "README.md"}
    for name in (*parts, *SECRETS, "run.json", "model-old.safetensors", "optimizer.pt", "adapter_config.json"):
        write(tmp_path, name, "")
    assert {path.name for path in files_to_send(tmp_path)} == parts
    write(tmp_path, "adapter_model.safetensors", "")
    assert {path.name for path in files_to_send(tmp_path)} == SENT


@pytest.mark.parametrize(
    ("part", "statuses", "says"),
    [
        ("/api/repos/create", [401], "the token is not taken (HTTP 401)"),
        ("/commit/", [403], "the token may not write there (HTTP 403)"),
        ("objects/batch", [403], "(HTTP 403)"),
        ("/commit/", [500] * 3, "the hub is in trouble (HTTP 500)"),
        (None, [], f"{NOBODY} cannot be reached (ConnectError)"),
        ("/commit/", [500, 503], None),  # two retries
    ],
)
def test_a_fault_of_the_hub_is_one_line_and_the_run_stays_as_it_was(hub, finished, part, statuses, says):
    hub.faults[part or ""] = statuses
    before = {path: path.read_bytes() for path in finished.iterdir()}
    done = send(finished, url=hub.url if part else NOBODY)
    assert all(path.read_bytes() == before[path] for path in before) and TOKEN not in done.stdout + done.stderr
    if says is None:
        assert done.returncode == 0 and hub.repos["me/popd"]["files"].keys() == SENT
    else:
        (line,) = done.stderr.splitlines()
        assert done.returncode == 2 and line.startswith("error: push_to_hub: me/popd: ") and line.endswith(says)


def test_a_card_edited_here_is_sent_as_it_is_unless_it_is_to_be_overwritten(hub, finished, caplog):
    there = hub.repos["me/popd"] = {"private": True, "files": {"README.md": b"# There", "mine.txt": b"x"}}
    for words, sent in ((["--overwrite"], b"**Not scored.**"), ([], b"# Written here")):
        (finished / "README.md").write_text("# Written here")
        assert send(finished, *words, url=hub.url).returncode == 0 and sent in there["files"]["README.md"]
    assert "was edited, and is sent as it is" in caplog.text and there["files"].keys() == {*SENT, "mine.txt"}
    change(finished, "run.json", finished=None)  # an unfinished run is not sent
    assert send(finished, url=hub.url).returncode == 2
