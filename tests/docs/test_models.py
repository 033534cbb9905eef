"""docs/reference/models.md lists the families and the keys of their files, and the file that it shows composes."""

import re

from helpers import config

from safeeraser.benchmark import family as pages
from safeeraser.unlearn.config.read import read_settings

from .pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_table_lists_the_families():
    listed = {
        re.match(r"`(\S+)`", name)[1]: (re.match(r"`(\S+)`", path)[1], decoder, lmms.strip("`"))
        for name, path, decoder, lmms in rows(PAGE)
    }
    assert listed == {
        name: (each.model_path, each.decoder, each.lmms_eval.model if each.lmms_eval else "none")
        for name, each in pages.families().items()
        if each.model_path
    }


def test_each_key_of_a_family_is_explained():
    section = PAGE.partition("\n## What a page says\n")[2]
    explained = [name for cells in rows(section) for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(explained) == sorted(pages.Family.model_fields)


def test_the_file_that_it_shows_composes(tmp_path):
    name, text = re.search(r"^# config/model_family/(\S+)\.yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL).groups()
    added = tmp_path / "model_family" / f"{name}.yaml"
    added.parent.mkdir()
    added.write_text(text, encoding="utf-8")
    family = read_settings(config(f"model_family={name}", f"hydra.searchpath=[{tmp_path}]")).model_family
    named = {"name": name, "model_path": family.model_path}
    assert family == pages.families()["qwen2.5-vl"].model_copy(update=named)
