"""The material of the self-test, made once a file."""

import pytest

from safeeraser.selftest.material import Bench, write


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """The tiny model, its pictures and records."""
    made = Bench(tmp_path_factory.mktemp("bench"), "tiny")
    write(made)
    return made
