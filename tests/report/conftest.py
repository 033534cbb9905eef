"""`golden(name, text)` compares a text, whole, with the file of that name in `golden/`.

After a change that is meant, write the files anew with `NEW_GOLDEN=1 pytest tests/report`, and read what git shows.
"""

import os
from pathlib import Path

import pytest

from safeeraser import __version__


@pytest.fixture
def golden():
    def compare(name: str, text: str) -> None:
        file = Path(__file__).parent / "golden" / name
        text = text.replace(f"safeeraser {__version__}", "safeeraser VERSION")
        if os.environ.get("NEW_GOLDEN"):
            file.write_text(text, encoding="utf-8")
        assert text == file.read_text(encoding="utf-8")

    return compare
