"""A server of chat completions: the requests that it gets, the cost of its faults, and that it answers alike."""

import base64
import io
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from chat_server import HANG, NO_COMPLETION
from helpers import CHECKPOINT, MODEL, RECORDED, VAL, kill, record, run, write_dataset
from PIL import Image, ImageOps

from safeeraser.benchmark.conversation import SYSTEM_TEXTS
from safeeraser.benchmark.files import read_json as read
from safeeraser.benchmark.pictures import open_picture
from safeeraser.infer import server as server_module
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.requests import Request
from safeeraser.model.merge import merge

LLAVA = SYSTEM_TEXTS["user"]


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data", record(0), record(1, "Sex"))


def infer(url, out, *more, model="m", eval_file=VAL):
    given = ("--backend", "openai", "--base_url", url, "--model_path", model, "--max_new_tokens", 12)
    return run("ckpt_infer", *given, "--eval_file", eval_file, "--output_file", out, *more)


def bodies(server):
    return [body for *_, body in server.requests]


def asked(body):
    *picture, text = body["messages"][-1]["content"]
    sent = [base64.b64decode(each["image_url"]["url"].removeprefix("data:image/png;base64,")) for each in picture]
    return text["text"], Image.open(io.BytesIO(sent[0])) if sent else None


@contextmanager
def served(model, log):
    """Run `transformers serve` with a model and yield its address; its output goes to `log`."""
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        address = ("127.0.0.1", str(probe.getsockname()[1]))
    call = [Path(sys.executable).with_name("transformers"), "serve", model, "--host", address[0], "--port", address[1]]
    with log.open("w") as output:
        process = subprocess.Popen(call, stdout=output, stderr=subprocess.STDOUT)
    try:
        health = None
        while not health:  # it answers once the model is loaded
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.2)
            with suppress(OSError):
                health = urlopen(f"http://{':'.join(address)}/health", timeout=5)
        yield f"http://{':'.join(address)}/v1"
    finally:
        kill(process.pid)
        process.wait()


@pytest.mark.nightly
def test_a_served_merged_model_answers_greedily_as_the_built_in_engine(tmp_path):
    """Every request of the recorded held-out split, by `transformers serve`."""
    merge(CHECKPOINT, tmp_path / "model", model_path=str(MODEL))
    crossed = ("--image_free", "--swap_pictures", "--greedy")
    with served(tmp_path / "model", tmp_path / "log.txt") as url:
        done = infer(url, tmp_path / "served.json", *crossed, model=tmp_path / "model")
    assert done.returncode == 0, done.stderr
    given = ("--model_path", MODEL, "--checkpoint_path", CHECKPOINT, "--eval_file", VAL)
    given = (*given, *crossed, "--max_new_tokens", 12, "--dtype", "float32")
    assert run("ckpt_infer", *given, "--output_file", tmp_path / "own.json").returncode == 0
    assert read(tmp_path / "served.json") == read(tmp_path / "own.json")


def test_what_is_sent_and_where_the_answers_go(serve, data, tmp_path, monkeypatch):
    server = serve(lambda number, _: (200, {}, f" answer {number}\n"))
    monkeypatch.setattr("safeeraser.progress.EVERY", 0)
    extra = ("--extra_body", '{"top_k": 0}', "--image_free", "--top_p", 0.8, "--temperature", 0.7, "--seed", 7)
    done = infer(server.url.replace("//", "//me:secret@"), tmp_path / "p.json", *extra, eval_file=data)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stderr.splitlines() if line.startswith("48 of 48 responses, ")]
    sent = bodies(server)
    seeds = {body["seed"] for body in sent}
    assert len(seeds) == len(sent) == 2 * 24 and all(0 <= seed < 2**31 for seed in seeds)
    questions = Counter()
    for body in sent:
        question, picture = asked(body)
        questions[question, picture and picture.tobytes()] += 1
        (system, _) = body.pop("messages")
        assert system == {"role": "system", "content": LLAVA}
        wanted = {"model": "m", "max_tokens": 12, "temperature": 0.7, "top_p": 0.8, "top_k": 0}
        assert body.items() >= wanted.items()
    pixels = [open_picture(data.parent / kind / "Sex/1.jpg").tobytes() for kind in ("img", "pdset")]
    assert [questions["Secret 2?", each] for each in (*pixels, None)] == [3, 1, 2]
    assert questions["What image2?", pixels[0]] == 1
    assert all(pair["image_free_response"] for value in read(tmp_path / "p.json") for pair in value["unsafe_pairs"])
    told = read(tmp_path / "p.run.json")
    assert "secret" not in json.dumps(told) and told["settings"]["extra_body"] == {"top_k": 0}
    assert infer(server.url, tmp_path / "g.json", "--greedy", "--only", "retain", eval_file=data).returncode == 0
    for body in bodies(server)[48:]:
        assert body["temperature"] == 0 and not {"seed", "top_p"} & body.keys()


def test_a_family_and_an_attack_decide_the_system_text_and_the_picture(serve, data, tmp_path):
    qwen, gemma = "Qwen/Qwen3-VL-2B-Instruct", RECORDED.parent / "families" / "gemma3" / "model"
    told = ATTACKS["told"].put([Request(0, (), None, "")], None, None, 0)[0].system
    picture = open_picture(data.parent / "img/Sex/1.jpg")
    for model, attack, system in ((MODEL, "flip", [LLAVA]), (gemma, "jpeg", []), (qwen, "told", [told])):
        server = serve(lambda *_: (200, {}, "yes"))
        words = ("--only", "retain", "--categories", "Sex", "--attack", attack)
        assert infer(server.url, tmp_path / f"{attack}.json", *words, model=model, eval_file=data).returncode == 0
        assert len(server.requests) == 4
        for body in bodies(server):
            assert [each["content"] for each in body["messages"] if each["role"] == "system"] == system
            if attack != "jpeg":
                shown = ImageOps.mirror(picture) if attack == "flip" else picture
                assert asked(body)[1].tobytes() == shown.tobytes()


@pytest.mark.parametrize("fault", [(400, {}, "x"), (200, {}, NO_COMPLETION), (200, {}, b"<html>")])
def test_a_request_that_fails_is_listed_and_asked_again_next_time(serve, data, tmp_path, fault):
    ill, out = [True], tmp_path / "p.json"

    def script(number, _):
        return fault if ill[0] and asked(bodies(server)[number])[0] == "What text2?" else (200, {}, f"answer {number}")

    server = serve(script)
    done = infer(server.url, out, eval_file=data)
    assert done.returncode == 3
    reason = "no chat completion" if fault[0] == 200 else "BadRequestError (HTTP 400)"
    *named, last = done.stderr.strip().splitlines()[-3:]
    assert named == [f"record {number}, UnharmPair_text2: 1 responses missing: {reason}" for number in (0, 1)]
    assert last.startswith("error: 2 of 40 responses are missing, and null in ") and "What" not in done.stderr
    assert [value["UnharmPair_text2"]["Prediction"] for value in read(out)] == [None, None]
    before, ill[0] = len(server.requests), False
    assert infer(server.url, out, eval_file=data).returncode == 0
    assert [asked(body)[0] for body in bodies(server)[before:]] == ["What text2?"] * 2
    assert all(value["UnharmPair_text2"]["Prediction"] for value in read(out))


@pytest.mark.parametrize(
    ("status", "calls", "says"),
    [(401, 1, "requires a key (HTTP 401): set KEY_FOR_127_0_0_1"), (400, 8, "refused each of 8")],
)
def test_a_server_that_answers_nothing_ends_the_run_and_leaves_nothing(
    serve, data, tmp_path, monkeypatch, status, calls, says
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    server = serve(lambda *_: (status, {}, "x"))
    done = infer(server.url, tmp_path / "p.json", "--concurrency", 1, eval_file=data)
    assert "sk-openai" not in str(server.requests)
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1]
    assert len(server.requests) == calls and not list(tmp_path.glob("p.*"))


@pytest.mark.slow
def test_a_server_that_falls_silent_is_given_up_and_asked_only_for_the_rest_later(serve, data, tmp_path, monkeypatch):
    monkeypatch.setattr(server_module, "TIMEOUT", 0.05)
    silent = [True]
    server = serve(lambda number, _: (200, {}, HANG if silent[0] and number >= 10 else "yes"))
    done = infer(server.url, tmp_path / "p.json", "--concurrency", 1, eval_file=data)
    assert done.returncode == 2
    assert "has not answered the last 8 calls (APITimeoutError); the same command resumes from here" in done.stderr
    kept, silent[0], before = len(server.answered), False, len(server.requests)
    assert kept == 10 and not (tmp_path / "p.json").exists()
    server.stopped.set()
    monkeypatch.setattr(server_module, "TIMEOUT", 60)
    assert infer(server.url, tmp_path / "p.json", "--concurrency", 1, eval_file=data).returncode == 0
    # Compared by content: on a busy machine, a call that was given up may still arrive.
    first, rest = ({str(body) for *_, body in of} for of in (server.requests[:10], server.requests[before:]))
    assert len(rest) == 30 and not first & rest
