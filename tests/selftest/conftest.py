"""The material of the self-test, made once a file."""

import pytest

from safeeraser.selftest.material import Bench, write


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    write(made := Bench(tmp_path_factory.mktemp("bench"), "tiny"))
    return made
