"""Inference through a server: `transformers serve` for the answers, a server with scripted faults for the rest."""

import base64
import io
import json
import time
from collections import Counter

import pytest
from chat_server import CLOSE, HANG, NO_COMPLETION
from helpers import MODEL, RECORDED, VAL, record, refused, run, write_dataset
from PIL import Image

from safeeraser.benchmark.conversation import SYSTEM_TEXTS
from safeeraser.benchmark.pictures import open_picture
from safeeraser.infer import server as server_module
from safeeraser.infer.attacks import ATTACKS

pytestmark = pytest.mark.slow

TOKENS = 12


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """The client's waits, a hundredth of what they are."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.005)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.05)
    monkeypatch.setattr("safeeraser.chat.PAUSE", 0.05)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def data(tmp_path):
    return write_dataset(tmp_path / "data", record(0), record(1, "Sex"))


def infer(url, out, *more, model="m", eval_file=VAL):
    given = ("--backend", "openai", "--base_url", url, "--model_path", model, "--max_new_tokens", TOKENS)
    return run("ckpt_infer", *given, "--eval_file", eval_file, "--output_file", out, *more)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def answered(server):
    """The questions that the server has answered, in order."""
    return [body["messages"][1]["content"][-1]["text"] for *_, body in server.requests]


def test_a_served_merged_model_answers_greedily_as_the_built_in_engine(server, tmp_path):
    """Every request of the recorded val file, by `transformers serve`."""
    crossed = ("--image_free", "--swap_pictures", "--greedy")
    done = infer(server.url, tmp_path / "served.json", *crossed, model=server.model)
    assert done.returncode == 0, done.stderr
    given = ("--model_path", MODEL, "--checkpoint_path", RECORDED / "inference" / "checkpoint.pt", "--eval_file", VAL)
    given = (*given, *crossed, "--max_new_tokens", TOKENS, "--dtype", "float32")
    assert run("ckpt_infer", *given, "--output_file", tmp_path / "own.json").returncode == 0
    assert read(tmp_path / "served.json") == read(tmp_path / "own.json")
    told = read(tmp_path / "served.run.json")
    assert told["base_url"] == server.url and told["settings"]["backend"] == "openai"


def test_what_is_sent(serve, data, tmp_path):
    server = serve(lambda number, _: (200, {}, f" answer {number}\n"))
    extra = ("--extra_body", '{"top_k": 0}', "--image_free", "--top_p", 0.8, "--seed", 7)
    done = infer(server.url, tmp_path / "p.json", *extra, eval_file=data)
    assert done.returncode == 0, done.stderr
    bodies = [body for *_, body in server.requests]
    assert len(bodies) == 2 * (12 + 4 + 4 + 4)
    seeds = set()
    for body in bodies:
        system, user = body["messages"]
        assert system == {"role": "system", "content": SYSTEM_TEXTS["user"]}
        assert user["content"][-1]["type"] == "text"
        assert (body["model"], body["max_tokens"], body["temperature"], body["top_p"]) == ("m", TOKENS, 1.0, 0.8)
        assert body["top_k"] == 0
        seeds.add(body["seed"])
    assert len(seeds) == len(bodies) and all(0 <= seed < 2**31 for seed in seeds)
    shown = [body["messages"][1]["content"][0] for body in bodies if len(body["messages"][1]["content"]) == 2]
    assert len(shown) == 2 * (12 + 4 + 4)
    sent = base64.b64decode(shown[0]["image_url"]["url"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(sent)).tobytes() == open_picture(data.parent / "img/Weapon/0.jpg").tobytes()
    texts = {pair["image_free_response"] for value in read(tmp_path / "p.json") for pair in value["unsafe_pairs"]}
    assert len(texts) == 8 and all(text.startswith("answer ") for text in texts)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("m", True),
        (str(MODEL), True),
        ("llava-hf/llava-1.5-7b-hf", True),
        ("Qwen/Qwen3-VL-2B-Instruct", False),
        (str(RECORDED.parent / "families" / "gemma3" / "model"), False),
    ],
)
def test_the_system_text_is_llavas_alone(serve, data, tmp_path, model, told):
    """Of a model by a name of the server's own nothing is known, and LLaVA-1.5's is sent."""
    server = serve(lambda *_: (200, {}, "yes"))
    assert infer(server.url, tmp_path / "p.json", "--only", "retain", model=model, eval_file=data).returncode == 0
    wanted = ["system", "user"] if told else ["user"]
    assert server.requests and all(
        [each["role"] for each in body["messages"]] == wanted for *_, body in server.requests
    )


@pytest.mark.parametrize("model", ["m", "Qwen/Qwen3-VL-2B-Instruct"])
def test_an_attacks_system_text_is_sent_in_its_place(serve, data, tmp_path, model):
    server = serve(lambda *_: (200, {}, "yes"))
    given = ("--only", "retain", "--attack", "told")
    assert infer(server.url, tmp_path / "p.json", *given, model=model, eval_file=data).returncode == 0
    text = ATTACKS["told"].system("", None)
    assert server.requests and all(
        [each["content"] for each in body["messages"] if each["role"] == "system"] == [text]
        for *_, body in server.requests
    )


def test_greedy_is_temperature_zero(serve, data, tmp_path):
    server = serve(lambda *_: (200, {}, "yes"))
    assert infer(server.url, tmp_path / "p.json", "--greedy", "--only", "retain", eval_file=data).returncode == 0
    for *_, body in server.requests:
        assert body["temperature"] == 0 and not {"seed", "top_p"} & body.keys()


def test_faults_cost_nothing_but_time(serve, tmp_path):
    """429 with and without Retry-After, 500, closed connections: all is answered, nothing asked again once answered."""
    faults = [(429, {"Retry-After": "0.01"}, "x"), (429, {}, "x"), (500, {}, "x"), (503, {}, "x"), (200, {}, CLOSE)]
    met = Counter()

    def script(number, _):
        """Each third request meets a fault of its own, three times; its seed tells which request it is."""
        seed = server.requests[number][3]["seed"]
        met[seed] += 1
        return faults[seed % 5] if seed % 3 == 1 and met[seed] <= 3 else (200, {}, f"answer {number}")

    server = serve(script)
    done = infer(server.url, tmp_path / "p.json", "--concurrency", 8)
    assert done.returncode == 0, done.stderr
    whole = read(tmp_path / "p.json")
    texts = [pair[f"model_response{n}"] for value in whole for pair in value["unsafe_pairs"] for n in (1, 2, 3)]
    texts += [pair["sd_response"] for value in whole for pair in value["unsafe_pairs"]]
    texts += [value[f"UnharmPair_{name}"]["Prediction"] for value in whole for name in ("text1", "image2")]
    assert len(set(texts)) == len(texts) == 6 * 18
    assert len(server.answered) == 120 and max(met.values()) == 4


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((400, {}, "x"), "BadRequestError (HTTP 400)"),
        ((200, {}, NO_COMPLETION), "no chat completion"),
        ((200, {}, b"<html>"), "no chat completion"),
    ],
)
def test_what_a_server_does_not_answer_is_listed_and_asked_again_next_time(serve, data, tmp_path, fault, reason):
    ill, out = [True], tmp_path / "p.json"

    def script(number, _):
        return fault if ill[0] and answered(server)[number] == "What text2?" else (200, {}, f"answer {number}")

    server = serve(script)
    done = infer(server.url, out, eval_file=data)
    assert done.returncode == 3
    *named, last = done.stderr.strip().splitlines()[-3:]
    assert named == [f"record {number}, UnharmPair_text2: 1 responses missing: {reason}" for number in (0, 1)]
    assert last.startswith("error: 2 of 40 responses are missing in ") and "What" not in done.stderr
    assert [value["UnharmPair_text2"]["Prediction"] for value in read(out)] == [None, None]
    before, ill[0] = len(server.requests), False
    assert infer(server.url, out, eval_file=data).returncode == 0
    assert answered(server)[before:] == ["What text2?"] * 2
    assert all(value["UnharmPair_text2"]["Prediction"] for value in read(out))
    assert not out.with_name("p.json.partial.jsonl").exists()


def test_a_server_that_refuses_everything_leaves_nothing_behind(serve, data, tmp_path):
    """As one does that has another model: what it was asked must not stand in the way of the right command."""
    server = serve(lambda *_: (400, {}, "x"))
    done = infer(server.url, tmp_path / "p.json", eval_file=data)
    assert done.returncode == 2
    assert "the server at 127.0.0.1 has refused each of 8 calls (BadRequestError (HTTP 400)" in done.stderr
    done = infer(
        server.url, tmp_path / "p.json", "--limit", 1, "--only", "decoupled", "--categories", "Sex", eval_file=data
    )
    assert done.returncode == 2
    assert "error: nothing was answered: BadRequestError (HTTP 400)" in done.stderr
    assert not list(tmp_path.glob("p.*"))


def test_a_server_that_says_nothing(serve, data, tmp_path, monkeypatch):
    """It is given up after a while; what was answered before is kept, and the next start asks only for the rest."""
    monkeypatch.setattr(server_module, "TIMEOUT", 0.05)
    silent = [True]
    server = serve(lambda number, _: (200, {}, HANG if silent[0] and number >= 10 else f"answer {number}"))
    done = infer(server.url, tmp_path / "p.json", "--concurrency", 1, eval_file=data)
    assert done.returncode == 2
    assert "has not answered the last 8 calls (APITimeoutError); the same command goes on from here" in done.stderr
    kept, silent[0] = len(server.answered), False
    before = len(server.requests)
    assert kept == 10 and not (tmp_path / "p.json").exists()
    server.stopped.set()
    assert infer(server.url, tmp_path / "p.json", "--concurrency", 1, eval_file=data).returncode == 0
    assert len(server.requests) - before == 30


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ((401, {}, "x"), "the server at 127.0.0.1 does not accept the API key (HTTP 401)"),
        ((404, {}, "x"), "the server at 127.0.0.1 knows no model 'm', or --base_url is wrong (HTTP 404)"),
    ],
)
def test_what_no_retry_mends_ends_the_run_at_once(serve, data, tmp_path, fault, says):
    server = serve(lambda *_: fault)
    done = infer(server.url, tmp_path / "p.json", eval_file=data)
    assert done.returncode == 2 and says in done.stderr.splitlines()[-1]
    assert len(server.requests) == 1 and not list(tmp_path.glob("p.json*"))


def test_concurrency_is_bounded(serve, data, tmp_path):
    def script(number, _):
        time.sleep(0.02)
        return (200, {}, f"answer {number}")

    server = serve(script)
    assert infer(server.url, tmp_path / "p.json", "--concurrency", 5, eval_file=data).returncode == 0
    assert 2 <= server.peak <= 5


def test_a_server_that_does_not_sample_is_told(serve, tmp_path, caplog):
    server = serve(lambda number, _: (200, {}, f"answer to {answered(server)[number]}"))
    assert infer(server.url, tmp_path / "p.json", "--only", "forget").returncode == 0
    assert "the 3 samples of each question are the same: the server does not sample" in caplog.text
    caplog.clear()
    assert infer(server.url, tmp_path / "q.json", "--only", "forget", "--greedy").returncode == 0
    assert caplog.text.count("samples") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--backend", "openai"], "--backend openai: give the server's --base_url, such as http://localhost:8000/v1"),
        (
            ["--base_url", "http://127.0.0.1:1/v1"],
            "--base_url and --extra_body are for a server of your own: --backend",
        ),
        (["--backend", "vllm"], "unknown backend 'vllm'; known: local, openai"),
        (["--backend", "openai", "--base_url", "nowhere"], "--base_url is no address of a server"),
        (["--backend", "openai", "--base_url", "http://127.0.0.1:9/v1"], "the server at 127.0.0.1 cannot be reached"),
        (
            ["--backend", "openai", "--base_url", "http://h/v1", "--extra_body", "[1]"],
            "--extra_body: must be a JSON obj",
        ),
        (
            ["--backend", "openai", "--base_url", "http://h/v1", "--extra_body", "[" * 100_000],
            "--extra_body: must be a JSON obj",
        ),
        (
            ["--backend", "openai", "--base_url", "http://h/v1", "--checkpoint_path", RECORDED],
            "--checkpoint_path: a server holds its model whole; 'python -m safeeraser.model merge ADAPTER FOLDER'",
        ),
    ],
)
def test_bad_input(tmp_path, data, arguments, says):
    refused(tmp_path, "ckpt_infer", "--eval_file", data, "--output_file", tmp_path / "p.json", *arguments, says=says)
