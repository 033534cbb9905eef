"""The families, one after the other: each is loaded once for all tests of a file."""

import pytest

from .recorded import FAMILIES, Recorded


# The fast tests see one family, whose traps are the most.
@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=[] if name == "qwen3_vl" else pytest.mark.slow) for name in FAMILIES],
)
def family(request):
    return Recorded(request.param)
