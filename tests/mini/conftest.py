"""What the tests of the mini benchmark share: one small build, with a base model that has only begun to learn."""

import pytest

from safeeraser.mini.build import Settings, build


@pytest.fixture(scope="session")
def settings():
    """Settings of a build that takes seconds."""
    return Settings(train_per_concept=1, val_per_concept=2, vqa=20, see_steps=2, speak_steps=2, exam_pictures=1)


@pytest.fixture(scope="session")
def small(settings, tmp_path_factory):
    """The folder of a small mini benchmark."""
    out = tmp_path_factory.mktemp("data") / "mini"
    build(out, settings)
    return out
