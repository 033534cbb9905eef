"""What another family's model knows: its pictures, templates and layers are found as LLaVA's are."""

import pytest
import torch
from helpers import TRAIN
from torch.nn.functional import cross_entropy

from safeeraser.audit.inside import MEASURES, measured, read_pairs
from safeeraser.benchmark.records import read_records
from safeeraser.model import VLM, Turn

from .recorded import logits, picture


def test_measures_of_another_family(family):
    vlm, pairs = VLM(family.model, family.preprocessor), read_pairs(read_records(TRAIN), range(0, 12, 4))[::4]
    one, three = (measured(lambda: vlm, lambda: vlm, {"": pairs}, batch_size=size)[""] for size in (1, 3))
    assert {name for name in one if not name.startswith("exact")} > {"depth", "gap", "recall_3", "probe"}
    for name, values in one.items():
        assert three[name] == pytest.approx(values, abs=1e-4), name
    assert max(abs(value) for name in one if name.startswith("depth") for value in one[name].values()) < 1e-5
    for pair in pairs:
        row = vlm.encode(Turn(picture(str(pair.picture)), pair.question, pair.true))
        said = logits(family.model, vlm.join([row]))[0, :-1]
        wanted = cross_entropy(said, torch.tensor(row.labels[1:])).item()
        assert one["nll_true"][pair.key] == pytest.approx(wanted, abs=1e-4)
    assert list(MEASURES) == ["depth", "extraction", "likelihood", "probe"]
