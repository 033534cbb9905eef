"""What the tests of training share: an adapter that has been trained a little, so that none of its matrices is 0."""

import pytest
from helpers import trained

from .built import GIVEN


@pytest.fixture(scope="session")
def moved(tmp_path_factory):
    """The folder of a run of GD on the tiny model, two steps at a high rate."""
    words = (*GIVEN, "forget_loss=gd", "max_train_steps=2", "lr=0.01", "warmup_ratio=0")
    return trained(tmp_path_factory.mktemp("moved") / "run", *words)
