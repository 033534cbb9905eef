"""The self-test's material, made once for each test file."""

import pytest

from safeeraser.selftest.material import write


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return write("tiny", tmp_path_factory.mktemp("bench"))
