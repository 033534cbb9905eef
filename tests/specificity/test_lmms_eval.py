"""The real lmms-eval, if LMMS_PYTHON names a Python that has it: its figure equals this project's own count."""

import json
import os

import pytest
from helpers import CHECKPOINT, MODEL, RECORDED

from safeeraser.generation.sampling import Generation
from safeeraser.infer.engine import Engine
from safeeraser.infer.requests import Request
from safeeraser.model.merge import load_merged

PYTHON = os.environ.get("LMMS_PYTHON")
pytestmark = [pytest.mark.nightly, pytest.mark.skipif(not PYTHON, reason="LMMS_PYTHON names no Python with lmms-eval")]
PICTURES = sorted((RECORDED / "dataset" / "img").rglob("*.jpg"))[:6]


def test_its_figure_is_our_own_count_on_the_same_items(bench, tmp_path, monkeypatch):
    """Two of three answers of a random model are declared right; both counts must find exactly these answers."""
    questions = [f"Juliet delta Xray {word}?" for word in ("mike", "papa", "echo", "kilo", "lima", "tango")]
    vlm = load_merged(str(MODEL), CHECKPOINT, dtype="float32", lora_alpha=256)
    engine = Engine(vlm, Generation(greedy=True, max_new_tokens=40), 8)
    requests = [Request(i, ("answer",), PICTURES[i], question) for i, question in enumerate(questions)]
    found = {request.record: text for batch in engine.answer(requests) for request, text in batch}
    data = tmp_path / "mini"
    data.mkdir()
    items = [
        {"image_path": str(PICTURES[i]), "question": questions[i], "answer": found[i] if i % 3 else "another"}
        for i in range(len(questions))
    ]
    (data / "vqa.json").write_text(json.dumps(items))
    (data / "base_model").symlink_to(MODEL)
    for name, value in (("LMMS_PYTHON", PYTHON), ("MINI", str(data)), ("HF_TOKEN", "a-secret")):
        monkeypatch.setenv(name, value)
    words = ("--checkpoint_path", CHECKPOINT, "--model_path", MODEL, "--output_folder", bench.adapter)
    done = bench.run(*words, "--tasks", "mini_vqa", "--log_samples", adapter=False)
    assert done.code == 0, done.err
    task = done.result["tasks"]["mini_vqa"]
    assert (task["value"], task["n"], task["metric"]) == (4 / 6, 6, "exact_match")
    folder = bench.adapter / "specificity" / "mini_vqa"
    (samples,) = folder.glob("*/*_samples_*.jsonl")
    rows = {row["doc_id"]: row for row in map(json.loads, samples.read_text().splitlines())}
    assert {i: rows[i]["filtered_resps"] for i in rows} == found
    assert [rows[i]["exact_match"] for i in range(6)] == [0, 1, 1, 0, 1, 1]
    assert not any("a-secret" in file.read_text() for file in folder.rglob("*") if file.is_file())
