"""Shared by the tests of the mini benchmark: one small build, with base models that have only begun to learn."""

import pytest

from safeeraser.mini import build as builds
from safeeraser.mini.base_model import build as build_model
from safeeraser.mini.settings import read_settings

builds.THREADS = 1  # with models this small, two threads wait for each other most of the time


@pytest.fixture(scope="session")
def settings():
    """Settings of a build that takes seconds."""
    few = {
        "train_per_concept": 1,
        "dev_per_concept": 1,
        "val_per_concept": 2,
        "vqa": 20,
        "exam_pictures": 1,
        "exam_tokens": 2,
    }
    return read_settings("tiny").model_copy(update=few | {"see_steps": 2, "speak_steps": 2})


@pytest.fixture(scope="session")
def untrained(settings, tmp_path_factory):
    """A base model that has learnt nothing, and its preprocessor. Tests must not train it."""
    return build_model(settings, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="session")
def small(settings, tmp_path_factory):
    """The folder of a small mini benchmark with both models. Tests must not change it."""
    out = tmp_path_factory.mktemp("data") / "mini"
    builds.build(out, settings, list(builds.MODELS))
    return out
