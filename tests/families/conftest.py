"""The families, one after the other: each is loaded once for all tests of a file."""

import pytest

from .recorded import FAMILIES, Recorded


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    return Recorded(request.param)
