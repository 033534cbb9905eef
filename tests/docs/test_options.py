"""docs/options.md is what scripts/options.py prints, and names each key of the config file once."""

import os
import subprocess
import sys

import pytest

from safeeraser.unlearn.settings import Settings

from .pages import ROOT, load

OPTIONS = load("scripts/options.py")


@pytest.mark.slow
def test_the_page_is_what_the_script_prints():
    """`python scripts/options.py > docs/options.md` writes it anew."""
    env = os.environ | {"COLUMNS": "60"}  # which must not matter
    script = ROOT / "scripts" / "options.py"
    printed = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True).stdout
    assert printed == (ROOT / "docs" / "options.md").read_text(encoding="utf-8")


def test_each_key_of_the_settings_is_in_the_config_file_once():
    keys = [row[0].strip("`") for _, rows in OPTIONS.keys(OPTIONS.PAGE.read_text()) for row in rows]
    assert len(keys) == len(set(keys))
    for name, field in Settings.model_fields.items():
        inside = getattr(field.annotation, "model_fields", None)
        nested = inside and name not in ("model_family", "forget_loss", "recipe", "data")
        assert ({f"{name}.{key}" for key in inside} if nested else {name}) <= set(keys)
