"""The figures recorded from the released implementation must never change: tokens, losses, gradients, responses.

They are in tests/data/conformance, whose README says how they were recorded. The environment variable
SAFEERASER_CONFORMANCE can name another folder. Without it, ../shared/conformance is used if it exists.
"""

import json
import os
from pathlib import Path

import pytest
from helpers import METHODS, RECORDED, ROOT, plan_dataset, ran, read_lines
from safetensors.torch import load_file
from unlearn.given import settings

from safeeraser.benchmark.conversation import IGNORE, pad
from safeeraser.model.llava import to_release

BESIDE = ROOT.parent / "shared" / "conformance"
CONFORMANCE = Path(os.environ.get("SAFEERASER_CONFORMANCE", BESIDE if BESIDE.is_dir() else RECORDED)).resolve()
PAIR_FIELDS = ("model_response1", "model_response2", "model_response3", "sd_response")
UNHARM = ("UnharmPair_text1", "UnharmPair_text2", "UnharmPair_image1", "UnharmPair_image2")


def recorded(name):
    return json.loads((CONFORMANCE / name).read_text(encoding="utf-8"))


def unexpanded(row, image_token=500, count=16):
    """Token ids and labels with one token for the picture, as the release has them before its model expands it."""
    at = row.row.input_ids.index(image_token)
    assert row.row.input_ids[at : at + count] == [image_token] * count
    return tuple(values[: at + 1] + values[at + count :] for values in (row.row.input_ids, row.row.labels))


@pytest.mark.parametrize("method", ["gdpd", "popd"])
def test_token_ids_and_labels(monkeypatch, method):
    monkeypatch.chdir(CONFORMANCE)
    data = ("model_path=llava-tiny", "data_path=dataset/all_train.json")
    dataset = plan_dataset(settings(f"forget_loss={method}", f"plan=training/{method}.json", *data))
    expected = recorded(f"training/tokens_{method}.json")
    assert len(expected) == 12
    for number, views in enumerate(expected):
        # The release puts a refusal into the forget view, in place of the item's answer.
        said = {"refusal": "forget"} if method == "popd" else {}
        rows = {said.get(row.view, row.view): unexpanded(row) for row in dataset[number]}
        ids = dict(zip(rows, pad([ids for ids, _ in rows.values()], 501), strict=True))
        labels = dict(zip(rows, pad([labels for _, labels in rows.values()], IGNORE), strict=True))
        assert views == {view: {"input_ids": ids[view], "labels": labels[view]} for view in rows}, number


def train(folder, plan, *words):
    """Train with the settings of the recording: 48 items, four per optimizer step."""
    given = ("recipe=official", "init_adapter=initial_adapter.safetensors", "LoRA.dropout=0", "num_epochs=1")
    given += ("gradient_accumulation_steps=4", "dtype=float32", "workers=0")
    data = ("model_path=llava-tiny", "data_path=dataset/all_train.json", f"save_dir={folder}")
    ran("forget", *given, f"plan={plan}", *words, *data, cwd=CONFORMANCE)


def assert_reproduces(folder, method):
    """Assert that the run in `folder`, of one of the release's methods, has the recorded figures."""
    expected, rows = recorded(f"training/{method}.json"), read_lines(folder / "train_log.jsonl")
    losses = [loss for row in rows for loss in row["micro_losses"]]
    wanted = [step["loss"] for step in expected["steps"]]
    assert len(losses) == 48 and losses == pytest.approx(wanted, abs=1e-5, rel=0)
    norms = [row["grad_norm"] for row in rows]
    assert len(norms) == 12 and norms == pytest.approx(expected["grad_norms"], rel=1e-5, abs=0)
    adapter = to_release(load_file(folder / "adapter_model.safetensors"))
    final = {name: value.double().norm().item() for name, value in adapter.items()}
    assert len(final) == 32 and final == pytest.approx(expected["final_norms"], rel=1e-5, abs=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_training_follows_the_release(tmp_path, method):
    train(tmp_path / method, f"training/{method}.json", f"forget_loss={method}")
    assert_reproduces(tmp_path / method, method)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch_size"), [*(("popd_checkpoint", size) for size in (1, 7, 16, 256)), ("vanilla", 64)]
)
def test_greedy_responses_letter_by_letter(tmp_path, name, batch_size):
    out = tmp_path / "predictions.json"
    given = ("--eval_file", "dataset/all_val.json", "--model_path", "llava-tiny", "--dtype", "float32")
    if name == "popd_checkpoint":
        given += ("--checkpoint_path", "inference/checkpoint.pt", "--loss_type", "popd")
    greedy = ("--greedy", "--max_new_tokens", 16, "--batch_size", batch_size)
    ran("ckpt_infer", *given, *greedy, "--output_file", out, cwd=CONFORMANCE)
    found, expected = json.loads(out.read_text("utf-8")), recorded(f"inference/greedy_{name}.json")
    compared = 0
    for ours, theirs in zip(found, expected, strict=True):
        for one, two in zip(ours["unsafe_pairs"], theirs["unsafe_pairs"], strict=True):
            assert {field: one[field] for field in PAIR_FIELDS} == {field: two[field] for field in PAIR_FIELDS}
            compared += len(PAIR_FIELDS)
        for key in UNHARM:
            assert ours[key] == theirs[key]
            compared += 1
    assert compared == 120
