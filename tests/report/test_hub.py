"""What gets to the hub, played by a server on this machine: weights and card, nothing else, and never the token.

A fault of the hub is one line; the run stays as it was.
"""

import json

import pytest
from helpers import run
from hub_server import NOBODY, TOKEN, Hub, at

from safeeraser.errors import BadInput
from safeeraser.report import hub as sending
from safeeraser.report.hub import ADAPTER, MODEL, again, check_hub, check_place, files_to_send

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
    """A finished run, whose base lay in a folder, with files beside it that nobody else is to see."""
    folder = tmp_path / "popd"
    write(
        folder, "run.json", RUN | {"base": {"weights": "f" * 64}} | {"settings": RUN["settings"] | {"model_path": "/b"}}
    )
    write(folder, "adapter_config.json", {"r": 32, "base_model_name_or_path": "/b", "auto": [{"_name_or_path": "/b"}]})
    write(folder, "adapter_model.safetensors", "weights")
    for name in SECRETS:
        write(folder, name, '[{"question": "Secret?"}]')
    return folder


def send(folder, *words, url, token=TOKEN):
    with at(url, token):
        return run("safeeraser.report", folder, "--model_card", "--push_to_hub", "me/popd", *words)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_weights_and_card_are_sent_and_nothing_else(hub, finished):
    write(finished, "summary_val.json", {"split": "val", "asr": metric(0.25, 0.1, 0.4), "judge": "rules"})
    done = send(finished, url=hub.url)
    assert (done.returncode, done.stdout) == (0, f"sent: {hub.url}/me/popd\n"), done.stderr
    there = hub.repos["me/popd"]
    assert (
        there["private"] and there["files"].keys() == SENT and there["files"]["adapter_model.safetensors"] == b"weights"
    )
    card = there["files"]["README.md"].decode()
    assert card == (finished / "README.md").read_text() and '"me/popd"' in card and "| 25.0 | 10.0–40.0 |" in card
    # The folder that the base lay in is nobody's business.
    assert json.loads(there["files"]["adapter_config.json"]) == {
        "r": 32, "base_model_name_or_path": None, "auto": [{"_name_or_path": None}]
    }  # fmt: skip
    for method, path, headers, body in hub.requests:
        assert TOKEN not in path and TOKEN.encode() not in body, (method, path)
        assert [name for name, value in headers.items() if TOKEN in value] in ([], ["authorization"])
        assert not path.startswith("/store/") or "authorization" not in headers
    assert TOKEN not in done.stdout + done.stderr
    assert all(TOKEN.encode() not in data for data in contents(finished).values())
    # A base that is the hub's is named there.
    change(finished, "run.json", base=RUN["base"], settings=RUN["settings"] | {"model_path": "me/base"})
    assert send(finished, "--public", url=hub.url).returncode == 0
    assert json.loads(there["files"]["adapter_config.json"])["base_model_name_or_path"] == "me/base"


def test_what_of_a_folder_may_go(tmp_path):
    """Of a whole model the weights, in however many parts, configuration, tokenizer and processor."""
    parts = {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json", "README.md"}
    for name in (*parts, *SECRETS, "run.json", "model-old.safetensors", "optimizer.pt", "adapter_config.json"):
        write(tmp_path, name, "")
    assert {path.name for path in files_to_send(tmp_path)} == parts <= {*MODEL, "model-00001-of-00002.safetensors"}
    write(tmp_path, "adapter_model.safetensors", "")
    assert {path.name for path in files_to_send(tmp_path)} == SENT


@pytest.mark.parametrize(
    ("repo", "token", "role", "says"),
    [
        ("me/popd", "hf_other", "write", "push_to_hub: me/popd: the token is not taken (HTTP 401)"),
        ("me/open", TOKEN, "write", "push_to_hub: me/open is public; hub_private=false"),
        ("me/popd", TOKEN, "read", "push_to_hub: me/popd: the token may only read"),
        ("me/popd", TOKEN, None, f"push_to_hub: me/popd: {NOBODY} cannot be reached (ConnectError)"),
        ("me/popd", None, "write", "push_to_hub: no token for the hub; set HF_TOKEN"),
        ("popd", TOKEN, "write", "hub_model_id=popd: must be OWNER/NAME"),
        ("me/../x", TOKEN, "write", "hub_model_id=me/../x: "),
    ],
)
def test_a_hub_that_will_not_take_it_is_told_of_before_training(hub, monkeypatch, repo, token, role, says):
    """As forget.py asks it, before anything else; nothing is made there."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    hub.role, hub.repos["me/open"] = role, {"private": False, "files": {}}
    with at(hub.url if role else NOBODY, token), pytest.raises(BadInput) as refusal:
        check_hub(repo, private=True)
    line = str(refusal.value)
    assert line.startswith(says) and TOKEN not in line and "hf_other" not in line and "\n" not in line
    assert hub.repos.keys() == {"me/open"}


def test_a_hub_that_takes_it_is_asked_no_more(hub):
    hub.repos |= {"me/open": {"private": False, "files": {}}, "me/closed": {"private": True, "files": {}}}
    with at(hub.url):
        for repo, private in (("me/new", True), ("me/closed", True), ("me/open", False)):
            check_hub(repo, private=private)
        check_place("me/new")
    assert hub.repos.keys() == {"me/open", "me/closed"}


@pytest.mark.parametrize(
    ("part", "statuses", "says"),
    [
        ("/api/repos/create", [401], "the token is not taken (HTTP 401)"),
        ("/commit/", [403], "the token may not write there (HTTP 403)"),
        ("/preupload/", [403], "(HTTP 403)"),
        ("objects/batch", [403], "(HTTP 403)"),
        ("/api/models/", [404], "there is no such place (HTTP 404)"),
        ("/commit/", [418], "the hub refuses (HTTP 418)"),
        ("/resolve/", [500] * 3, "the hub is in trouble (HTTP 500)"),
        (None, [], f"{NOBODY} cannot be reached (ConnectError)"),
    ],
)
def test_a_fault_of_the_hub_is_one_line_and_the_run_stays_as_it_was(hub, finished, part, statuses, says):
    hub.faults[part or ""] = statuses
    before = contents(finished)
    done = send(finished, url=hub.url if part else NOBODY)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and line.startswith("error: push_to_hub: me/popd: ") and line.endswith(says)
    assert TOKEN not in done.stdout + done.stderr and before.items() <= contents(finished).items()


def test_a_hub_in_trouble_is_asked_twice_more(hub, finished):
    hub.faults["/commit/"] = [500, 503]
    assert send(finished, url=hub.url).returncode == 0 and hub.repos["me/popd"]["files"].keys() == SENT


def test_what_is_to_be_private_goes_to_no_public_place(hub, finished):
    there = hub.repos["me/popd"] = {"private": False, "files": {}}
    done = send(finished, url=hub.url)
    assert done.returncode == 2 and "me/popd is public; hub_private=false (or --public)" in done.stderr
    assert not there["files"]
    assert send(finished, "--public", url=hub.url).returncode == 0 and there["files"].keys() == SENT


def test_a_card_edited_at_the_hub_or_here_is_not_replaced(hub, finished, caplog):
    there = hub.repos["me/popd"] = {"private": True, "files": {"README.md": b"# My own card", "mine.txt": b"x"}}
    done = send(finished, url=hub.url)
    assert done.returncode == 0 and "the card at me/popd was edited there, and is left alone" in caplog.text
    assert there["files"]["README.md"] == b"# My own card" and there["files"].keys() == {*SENT, "mine.txt"}
    (finished / "README.md").write_text("# Written here")
    assert send(finished, "--overwrite", url=hub.url).returncode == 0
    assert b"Not scored" in there["files"]["README.md"]
    (finished / "README.md").write_text("# Written here")
    done = send(finished, url=hub.url)
    assert done.returncode == 0 and "was edited, and is sent as it is" in caplog.text
    assert there["files"]["README.md"] == b"# Written here"
    change(finished, "run.json", finished=None)  # what is no finished run goes nowhere
    assert send(finished, url=hub.url).returncode == 2


def test_the_command_that_sends_it_again(tmp_path):
    said = f"python -m safeeraser.report {tmp_path} --model_card --push_to_hub me/popd"
    assert again(tmp_path, "me/popd", private=True) == said
    assert again(tmp_path, "me/popd", private=False) == f"{said} --public"
