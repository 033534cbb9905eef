"""The way to the hub, played by a server: what gets there, what must not, and what goes wrong on the way."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from unittest.mock import patch

import pytest
from helpers import MODEL, RECORDED, ROOT, TRAIN, refused, run
from hub_server import TOKEN, Hub
from huggingface_hub import ModelCard, constants, metadata_load
from omegaconf import OmegaConf

from safeeraser.errors import BadInput
from safeeraser.report.hub import ADAPTER, check_hub

pytestmark = pytest.mark.slow

GIVEN = [f"model_path={MODEL}", f"data_path={TRAIN}", "forget_loss=popd", "dtype=float32", "workers=0", "limit=1"]
GIVEN += ["max_train_steps=1", "gradient_accumulation_steps=1"]
PAGE = (ROOT / "docs" / "publishing.md").read_text()
SENT = {"adapter_model.safetensors", "adapter_config.json", "README.md"}
SECRETS = ("plan.json", "run.json", "train_log.jsonl", "training_args.bin", "verdicts_val.json", "predictions_val.json")


@pytest.fixture
def hub():
    server = Hub()
    yield server
    server.stop()


def environment(url, token=TOKEN):
    """That of a user who is at the hub at `url`; the machine's own login counts for nothing."""
    rest = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    more = {"HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": "/nowhere", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return rest | more | {"PYTHONPATH": str(ROOT)} | ({"HF_TOKEN": token} if token else {})


def started(*words, url):
    """A command as a user starts it."""
    call = [sys.executable, *map(str, words)]
    return subprocess.run(call, cwd=RECORDED, env=environment(url), capture_output=True, text=True, timeout=300)


@contextmanager
def at(url, token=TOKEN):
    """The same in this process, where the library has read its environment long ago."""
    there = {"ENDPOINT": url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True, "HF_TOKEN_PATH": "/nowhere/token"}
    there["HUGGINGFACE_CO_URL_TEMPLATE"] = url + "/{repo_id}/resolve/{revision}/{filename}"
    with patch.multiple(constants, **there), patch.dict(os.environ, {"HF_TOKEN": token}):
        yield


def forget(*words, url, token=TOKEN):
    with at(url, token):
        return run("forget", *GIVEN, *words)


def report(*words, url="http://127.0.0.1:9", cwd=RECORDED):
    with at(url):
        return run("safeeraser.report", *words, cwd=cwd)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run, with files beside it that nobody else is to see."""
    folder = tmp_path_factory.mktemp("trained") / "popd"
    done = run("forget", *GIVEN, f"save_dir={folder}")
    assert done.returncode == 0, done.stderr
    for name in SECRETS[-2:]:
        (folder / name).write_text('[{"question": "Secret?"}]')
    return folder


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of it to do with as one likes."""
    folder = tmp_path / "popd"
    subprocess.run(["cp", "-r", trained, folder], check=True)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def says_one_line(done, folder=None):
    """The one line of an error; nothing else went wrong, and the token is nowhere."""
    assert TOKEN not in done.stdout + done.stderr and "Traceback" not in done.stderr, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    for path in folder.rglob("*") if folder else ():
        assert path.is_dir() or TOKEN.encode() not in path.read_bytes()
    return line


def test_training_sends_adapter_and_card_and_nothing_else(hub, tmp_path):
    """Then the figures, with the same command, which passes over the training."""
    folder = tmp_path / "run"
    words = (f"save_dir={folder}", "push_to_hub=true", "hub_model_id=me/popd")
    done = started(ROOT / "forget.py", *GIVEN, *words, url=hub.url)
    assert done.returncode == 0, done.stderr
    there = hub.repos["me/popd"]
    assert there["private"] and there["files"].keys() == SENT
    assert there["files"]["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    card = there["files"]["README.md"].decode()
    assert card == (folder / "README.md").read_text() and "**Not scored.**" in card and '"me/popd"' in card
    config = json.loads(there["files"]["adapter_config.json"])
    assert config["base_model_name_or_path"] is None and config["r"] == 32
    for method, path, headers, body in hub.requests:
        assert TOKEN not in path and TOKEN.encode() not in body and str(ROOT).encode() not in body, (method, path)
        assert [name for name, value in headers.items() if TOKEN in value] in ([], ["authorization"])
        assert not path.startswith("/store/") or "authorization" not in headers
    assert TOKEN not in done.stdout + done.stderr
    assert all(TOKEN.encode() not in data for data in contents(folder).values())

    weights, before = (folder / "adapter_model.safetensors").stat().st_mtime_ns, len(hub.requests)
    figure = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 48}
    summary = {"split": "val", "asr": figure, "protocol": "corrected", "judge": "rules"}
    (folder / "summary_val.json").write_text(json.dumps(summary))
    done = forget(*words, "resume_from_checkpoint=auto", url=hub.url)
    assert done.returncode == 0 and "done before" in done.stderr, done.stderr
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == weights and len(hub.requests) > before
    assert "| ASR-Gen ↓ | val | 25.0 | 10.0–40.0 | 48 | rules | corrected |" in there["files"]["README.md"].decode()
    assert there["files"].keys() == SENT


def test_a_model_that_was_trained_whole_is_a_folder_that_loads(hub, tmp_path):
    folder = tmp_path / "run"
    words = ("finetune=full", "forget_loss=gd", f"save_dir={folder}", "push_to_hub=true", "hub_model_id=me/whole")
    done = forget(*words, "hub_private=false", url=hub.url)
    assert done.returncode == 0, done.stderr
    there = hub.repos["me/whole"]
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"}
    names |= {"tokenizer_config.json", "chat_template.jinja", "preprocessor_config.json", "processor_config.json"}
    assert names <= there["files"].keys() and not set(SECRETS) & there["files"].keys() and not there["private"]
    assert not [name for name in there["files"] if str(ROOT).encode() in there["files"][name]]
    assert "library_name: transformers" in there["files"]["README.md"].decode()


def test_a_dry_run_tells_what_would_be_sent_and_asks_nobody(hub, tmp_path):
    words = ("dry_run=true", f"save_dir={tmp_path / 'run'}", "push_to_hub=true", "hub_model_id=me/popd")
    done = forget(*words, url=hub.url)
    assert done.returncode == 0, done.stderr
    told = "to the hub, when the run is finished: me/popd (private): adapter_model.safetensors, adapter_config.json"
    assert told in done.stderr and not [path for _, path, *_ in hub.requests if path.startswith("/api")]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("hub_model_id=null", "config: push_to_hub=true: hub_model_id must say where to"),
        ("save_model=false", "config: push_to_hub=true: nothing is left to send with save_model=false"),
        ("hub_model_id=popd", "hub_model_id=popd: must be OWNER/NAME"),
        ("hub_model_id=me/../x", "hub_model_id=me/../x: "),
        ("hub_private=true", "push_to_hub: no token for the hub; set HF_TOKEN"),
        ("trainer.push_to_hub=true", "config: trainer.push_to_hub: set by this project; use push_to_hub"),
    ],
)
def test_settings_that_cannot_work(tmp_path, monkeypatch, word, says):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    words = ("push_to_hub=true", "hub_model_id=me/popd", word, f"save_dir={tmp_path / 'run'}")
    refused(tmp_path, "forget", *GIVEN, *words, says=says)


@pytest.mark.parametrize(
    ("repo", "token", "role", "says"),
    [
        ("me/popd", "hf_other", "write", "me/popd: the token is not taken (HTTP 401)"),
        ("me/open", TOKEN, "write", "me/open is public; hub_private=false"),
        ("me/popd", TOKEN, "read", "me/popd: the token may only read"),
        ("me/popd", TOKEN, None, "me/popd: http://127.0.0.1:9 cannot be reached (ConnectError)"),
    ],
)
def test_a_hub_that_will_not_take_it_is_told_of_before_training(hub, repo, token, role, says):
    """As forget.py asks it, before anything else."""
    hub.role, hub.repos["me/open"] = role, {"private": False, "files": {}}
    with at(hub.url if role else "http://127.0.0.1:9", token), pytest.raises(BadInput) as refusal:
        check_hub(repo, private=True)
    line = str(refusal.value)
    assert line.startswith("push_to_hub: ") and says in line and TOKEN not in line and "hf_other" not in line
    assert hub.repos.keys() == {"me/open"}


def test_a_run_does_not_begin_where_it_could_not_be_sent(hub, tmp_path):
    words = ("push_to_hub=true", "hub_model_id=me/popd", f"save_dir={tmp_path / 'run'}")
    done = forget(*words, url=hub.url, token="hf_other")
    assert done.returncode == 2 and "the token is not taken (HTTP 401)" in says_one_line(done)
    assert not (tmp_path / "run").exists() and not hub.repos


def test_a_run_whose_sending_fails_is_whole_and_told_how_to_send_it_again(hub, tmp_path):
    folder = tmp_path / "run"
    hub.faults["/commit/"] = [403]
    done = forget("push_to_hub=true", "hub_model_id=me/popd", f"save_dir={folder}", url=hub.url)
    line = says_one_line(done, folder)
    assert done.returncode == 3 and "the token may not write there (HTTP 403); the run is whole in" in line
    assert "finished" in json.loads((folder / "run.json").read_text()) and not hub.repos["me/popd"]["files"]
    again = re.search(r"'python -m safeeraser\.report (.*)' sends it", line)[1].split()
    done = report(*again, url=hub.url)
    assert done.returncode == 0 and hub.repos["me/popd"]["files"].keys() == SENT, done.stderr


@pytest.mark.parametrize(
    ("part", "statuses", "says"),
    [
        ("/api/repos/create", [401], "the token is not taken (HTTP 401)"),
        ("/commit/", [403], "the token may not write there (HTTP 403)"),
        ("/preupload/", [403], "(HTTP 403)"),
        ("objects/batch", [403], "(HTTP 403)"),
        ("/api/models/", [404], "there is no such place (HTTP 404)"),
        ("/resolve/", [500] * 9, "the hub is in trouble (HTTP 500)"),
    ],
)
def test_a_fault_of_the_hub_is_one_line_and_the_run_stays_as_it_was(hub, finished, part, statuses, says):
    hub.faults[part] = statuses
    before = contents(finished)
    done = report(finished, "--model_card", "--push_to_hub", "me/popd", url=hub.url)
    line = says_one_line(done, finished)
    assert done.returncode == 2 and line.startswith("error: push_to_hub: me/popd: ") and line.endswith(says)
    before.pop("README.md")
    assert before.items() <= contents(finished).items()


def test_a_hub_in_trouble_is_asked_again(hub, finished):
    hub.faults["/commit/"] = [500]
    done = report(finished, "--model_card", "--push_to_hub", "me/popd", url=hub.url)
    assert done.returncode == 0 and hub.repos["me/popd"]["files"].keys() == SENT, done.stderr
    assert done.stdout == f"sent: {hub.url}/me/popd\n"


def test_nobody_at_home(finished):
    done = report(finished, "--model_card", "--push_to_hub", "me/popd")
    assert done.returncode == 2 and "http://127.0.0.1:9 cannot be reached" in says_one_line(done)


def test_a_card_edited_at_the_hub_or_here_is_not_replaced(hub, finished, caplog):
    words = (finished, "--model_card", "--push_to_hub", "me/popd")
    there = hub.repos["me/popd"] = {"private": True, "files": {"README.md": b"# My own card", "mine.txt": b"x"}}
    done = report(*words, url=hub.url)
    assert done.returncode == 0 and "the card at me/popd was edited there, and is left alone" in caplog.text
    assert there["files"]["README.md"] == b"# My own card" and there["files"].keys() == {*SENT, "mine.txt"}
    (finished / "README.md").write_text("# Written here")
    done = report(*words, "--overwrite", url=hub.url)
    assert done.returncode == 0 and b"Not scored" in there["files"]["README.md"], done.stderr
    (finished / "README.md").write_text("# Written here")
    done = report(*words, url=hub.url)
    assert done.returncode == 0 and "was edited, and is sent as it is" in caplog.text
    assert there["files"]["README.md"] == b"# Written here"


def test_what_gets_there_is_a_card_that_the_hub_reads(hub, finished, tmp_path):
    figure = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 48}
    summary = {"split": "val", "asr": figure, "sarr": figure, "protocol": "corrected", "judge": "rules"}
    (finished / "summary_val.json").write_text(json.dumps(summary))
    assert report(finished, "--model_card", "--push_to_hub", "me/popd", "--public", url=hub.url).returncode == 0
    assert not hub.repos["me/popd"]["private"]
    (tmp_path / "README.md").write_bytes(hub.repos["me/popd"]["files"]["README.md"])
    loaded = ModelCard.load(tmp_path / "README.md")
    asr, sarr = loaded.data.eval_results
    assert (asr.metric_type, asr.metric_value, asr.metric_args["judge"]) == ("asr", 25.0, "rules")
    assert (sarr.metric_type, sarr.dataset_split) == ("sarr", "val")
    assert loaded.data.to_dict()["model-index"] == metadata_load(tmp_path / "README.md")["model-index"]


def test_the_commands_of_the_page(hub, trained, tmp_path):
    """docs/publishing.md, as they stand there, but for the model and for one step."""
    scored, training, again = re.findall(r"^ {4}(?:bash|python) (.*)$", PAGE, re.MULTILINE)
    script, *words = training.split()
    assert script == "scripts/forget_lora.bash"
    done = forget(*words, "dry_run=true", f"save_dir={tmp_path / 'run'}", url=hub.url)
    assert done.returncode == 0 and "me/popd (private)" in done.stderr, done.stderr
    folder = tmp_path / "results" / "llava-1.5-7b"
    folder.mkdir(parents=True)
    subprocess.run(["cp", "-r", trained, folder / "popd"], check=True)
    for line in (scored, again):
        program, module, *given = line.split()
        assert (program, module) == ("-m", "safeeraser.report")
        done = report(*given, url=hub.url, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert hub.repos["me/popd"]["files"].keys() == SENT and hub.repos["me/popd"]["private"]


def test_the_page_names_all_that_is_sent():
    assert {name for name in ADAPTER if f"`{name}`" not in PAGE} == set()
    keys = OmegaConf.load(ROOT / "config" / "forget_lora.yaml")
    for key in ("push_to_hub", "hub_model_id", "hub_private"):
        assert key in keys and f"| `{key}` |" in PAGE
