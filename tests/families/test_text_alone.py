"""Conversations without a picture, in every family: trained on alone, and beside others that have one."""

import pytest
import torch
from helpers import RECORDED, TRAIN, plan_dataset, read_lines, settings, trained
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from safeeraser.model import Turn

pytestmark = pytest.mark.slow

GIVEN = ("dtype=float32", "attention=eager", "LoRA.dropout=0", "workers=0", "batch_size=2", "LoRA.r=4")
GIVEN += ("gradient_accumulation_steps=1", "max_train_steps=1", "data.views.retain.image=null")


def words(family, *more):
    return (f"model_path={family.path}", f"data_path={TRAIN}", *GIVEN, *more)


@torch.no_grad()
def expected(family, dataset):
    """The untouched model's loss on the first two conversations, each of them asked by itself."""
    losses = []
    for number in range(2):
        item = dataset.item("retain", dataset.plan[number])
        turn = Turn(None, item.question.capitalize(), item.answer.capitalize(), "human")
        row = family.preprocessor.encode(turn)
        logits = family.model(**family.preprocessor.join([row])).logits[0]
        losses.append(cross_entropy(logits[:-1], torch.tensor(row.labels[1:]), ignore_index=-100, reduction="none"))
    return losses


@pytest.mark.parametrize("method", ["none", "gdpd"])
def test_the_loss_is_that_of_the_text(family, tmp_path, monkeypatch, method):
    monkeypatch.chdir(RECORDED)
    given = words(family, f"forget_loss={method}")
    losses = expected(family, plan_dataset(settings(*given)))
    counts = [(loss > 0).sum() for loss in losses]
    run = trained(tmp_path / "run", *given)
    (row,) = read_lines(run / "train_log.jsonl")
    means = [(loss.sum() / count).item() for loss, count in zip(losses, counts, strict=True)]
    assert row["terms"]["retain"] == pytest.approx(sum(means) / 2, abs=1e-5)
    assert any(name.endswith("lora_B.weight") and value.any() for name, value in saved(run).items())


def saved(run):
    return load_file(run / "adapter_model.safetensors")


def test_what_is_compared_with_a_text_is_a_text(family, tmp_path):
    """The reference is shown the rows of its view alone, of which none has a picture."""
    run = trained(tmp_path / "run", *words(family, "forget_loss=klpd"))
    (row,) = read_lines(run / "train_log.jsonl")
    assert row["terms"]["kl"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("projector", ["full", "lora", "sine"])
def test_without_pictures_the_projector_stays(tmp_path, projector, monkeypatch):
    """Said in a line, and saved as an adapter that was trained so holds it: what goes on from one fits."""
    monkeypatch.chdir(RECORDED)
    given = ("model_path=llava-tiny", "data_path=dataset/all_train.json", *GIVEN, f"projector={projector}")
    before = trained(tmp_path / "before", *given, "forget_loss=gdpd")
    after = trained(tmp_path / "after", *given, "forget_loss=none", f"init_adapter={before}")
    names = [name for name in saved(before) if "multi_modal_projector" in name]
    moved = [name for name, value in saved(after).items() if not value.equal(saved(before)[name])]
    assert names and moved and not set(names) & set(moved)
