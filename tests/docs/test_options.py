"""docs/options.md: what the script prints, and all there is."""

import os
import subprocess
import sys

import pytest

from .pages import ROOT, load

pytestmark = pytest.mark.slow

OPTIONS = load("scripts/options.py")
PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")


def test_the_page_is_what_the_script_prints():
    """It is made again by `python scripts/options.py > docs/options.md`."""
    env = os.environ | {"COLUMNS": "60"}  # which must not matter
    script = ROOT / "scripts" / "options.py"
    printed = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True).stdout
    assert printed == PAGE


def test_every_key_of_the_page_of_settings_is_there_once():
    from safeeraser.unlearn.settings import Settings

    found = [row[0].strip("`") for _, rows in OPTIONS.keys(OPTIONS.PAGE.read_text()) for row in rows]
    assert len(found) == len(set(found))
    for name, field in Settings.model_fields.items():
        inside = getattr(field.annotation, "model_fields", None)
        if inside and name not in ("model_family", "forget_loss", "recipe", "data"):
            assert {f"{name}.{key}" for key in inside} <= set(found)
        else:
            assert name in found


def test_a_comment_of_two_lines_and_a_section_are_read():
    page = "# One\nlr: 1 # fast\n# first line,\n# second line\nthis: ${that}\n\n"
    page += "# Two: more.\nstop: # null: none\n  at: null\n"
    assert dict(OPTIONS.keys(page)) == {
        "One": [("`lr`", "`1`", "fast"), ("`this`", "`${that}`", "first line, second line")],
        "Two: more. `stop`: null: none.": [("`stop.at`", "`null`", "")],
    }
