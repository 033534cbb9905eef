"""`golden(name, text)` compares a text, whole, with the file of that name in `golden/`.

After a change that is meant, write the files anew with `NEW_GOLDEN=1 pytest tests/report`, and read what git shows
before you commit it: a golden file proves only that nothing changed unseen.
"""

import os
from pathlib import Path

import pytest

from safeeraser import __version__

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    def compare(name: str, text: str) -> None:
        text = text.replace(f"safeeraser {__version__}", "safeeraser VERSION")
        if os.environ.get("NEW_GOLDEN"):
            GOLDEN.mkdir(exist_ok=True)
            (GOLDEN / name).write_text(text, encoding="utf-8")
        assert text == (GOLDEN / name).read_text(encoding="utf-8")

    return compare
