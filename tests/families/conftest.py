"""The families, one after the other: each is loaded once for all tests of a file."""

import pytest

from .recorded import FAMILIES, Recorded


@pytest.fixture(scope="session", params=FAMILIES)
def family(request):
    return Recorded(request.param)


@pytest.fixture(scope="session")
def popd(family, tmp_path_factory):
    """The folder of a family's recorded training with `popd`, once for all that look at it."""
    from .trajectory import forget

    return forget(family, tmp_path_factory.mktemp(family.name) / "popd", "popd")
