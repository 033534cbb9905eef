"""What the tests of the mini benchmark share: one small build, with a base model that has only begun to learn."""

import pytest

from safeeraser.mini.base_model import build as build_model
from safeeraser.mini.build import build
from safeeraser.mini.settings import read_settings


@pytest.fixture(scope="session")
def settings():
    """Settings of a build that takes seconds."""
    few = {
        "train_per_concept": 1,
        "val_per_concept": 2,
        "vqa": 20,
        "see_steps": 2,
        "speak_steps": 2,
        "exam_pictures": 1,
    }
    return read_settings("tiny").model_copy(update=few)


@pytest.fixture(scope="session")
def untrained(settings, tmp_path_factory):
    """A base model that has learnt nothing, not to be trained, and what prepares its input."""
    return build_model(settings, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def preprocessor(untrained):
    """What prepares the input of such a model."""
    return untrained[1]


@pytest.fixture(scope="session")
def small(settings, tmp_path_factory):
    """The folder of a small mini benchmark."""
    out = tmp_path_factory.mktemp("data") / "mini"
    build(out, settings)
    return out
