"""`golden(name, text)` compares a complete text with the file of that name in `golden/`.

After an intended change, rewrite the files with `NEW_GOLDEN=1 pytest tests/report`, and read what git shows.
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
