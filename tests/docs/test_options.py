"""docs/options.md is what scripts/options.py prints, and names each key of the config file once."""

import runpy

from safeeraser.unlearn.config.settings import Settings

from .pages import ROOT, load

OPTIONS = load("scripts/options.py")


def test_the_page_is_what_the_script_prints(monkeypatch, capsys):
    """`python scripts/options.py > docs/options.md` writes it anew."""
    monkeypatch.setenv("COLUMNS", "60")  # which must not matter
    monkeypatch.chdir(ROOT)
    runpy.run_path(str(ROOT / "scripts" / "options.py"), run_name="__main__")
    assert capsys.readouterr().out == (ROOT / "docs" / "options.md").read_text(encoding="utf-8")


def test_each_key_of_the_settings_is_in_the_config_file_once():
    keys = [row[0].strip("`") for _, rows in OPTIONS.keys(OPTIONS.PAGE.read_text()) for row in rows]
    assert len(keys) == len(set(keys))
    for name, field in Settings.model_fields.items():
        inside = getattr(field.annotation, "model_fields", None)
        nested = inside and name not in ("model_family", "forget_loss", "recipe", "data", "step")
        assert ({f"{name}.{key}" for key in inside} if nested else {name}) <= set(keys)
