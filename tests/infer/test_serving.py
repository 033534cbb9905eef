"""A merged model behind a server answers as `ckpt_infer.py` does with model and adapter."""

import base64
import io
import json

import pytest
from helpers import MODEL, RECORDED, VAL, run
from openai import OpenAI

from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.infer.requests import build_requests

TOKENS = 12


@pytest.fixture(scope="module")
def client(server):
    with OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def greedy(tmp_path_factory):
    """What this project's own inference answers, in the data file's form."""
    out = tmp_path_factory.mktemp("greedy") / "predictions.json"
    given = ("--model_path", MODEL, "--checkpoint_path", RECORDED / "inference" / "checkpoint.pt", "--eval_file", VAL)
    done = run("ckpt_infer", *given, "--output_file", out, "--greedy", "--max_new_tokens", TOKENS, "--dtype", "float32")
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text(encoding="utf-8"))


def ask(client, server, picture, question):
    """The server's answer at temperature 0."""
    png = io.BytesIO()
    # As inference decodes it, and without loss: a server may turn a picture by its EXIF data, which inference does not.
    open_picture(picture).save(png, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": question}]
    reply = client.chat.completions.create(
        model=server.model,
        messages=[{"role": "user", "content": content}],
        temperature=0,
        max_tokens=TOKENS,
    )
    return reply.choices[0].message.content.strip()


def test_the_server_answers_as_inference_does(client, server, greedy, monkeypatch):
    monkeypatch.chdir(RECORDED)  # the recorded paths are relative to it
    requests = build_requests(read_records(VAL))
    some = requests[::5]
    answers = {request.key: ask(client, server, request.picture, request.question) for request in some}
    wanted = {}
    for request in some:
        value = greedy[request.record]
        for step in request.place:
            value = value[step]
        wanted[request.key] = value
    assert answers == wanted and len(set(wanted.values())) > len(wanted) / 3
