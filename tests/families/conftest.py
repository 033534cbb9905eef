"""The fixture of the model families. Each family is loaded once for all tests of a file."""

import pytest

from .recorded import FAMILIES, Recorded


# The fast tests use only one family, the one with the most traps.
@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=[] if name == "qwen3_vl" else pytest.mark.slow) for name in FAMILIES],
)
def family(request):
    return Recorded(request.param)
