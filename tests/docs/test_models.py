"""docs/reference/models.md lists the families and the keys of their files, and the file that it shows composes."""

import re

from helpers import config

from safeeraser.benchmark.family import Family, families
from safeeraser.unlearn.config.read import read_settings

from .pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_tables_list_the_families_and_the_keys():
    listed = [[re.search(r"`?([^`\s]+)", cell)[1] for cell in row] for row in rows(PAGE)]
    known = [
        [name, one.model_path, one.decoder, one.lmms_eval.model if one.lmms_eval else "none", one.license or "?"]
        for name, one in families().items()
        if one.model_path
    ]
    assert sorted(listed) == sorted(known)
    keys = rows(PAGE.partition("\n## The keys of a family\n")[2])
    assert sorted(re.findall(r"`(\w+)`", " ".join(row[0] for row in keys))) == sorted(Family.model_fields)


def test_the_file_that_it_shows_composes(tmp_path):
    name, text = re.search(r"^# config/model_family/(\S+)\.yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL).groups()
    added = tmp_path / "model_family" / f"{name}.yaml"
    added.parent.mkdir()
    added.write_text(text, encoding="utf-8")
    family = read_settings(config(f"model_family={name}", f"hydra.searchpath=[{tmp_path}]")).model_family
    assert family == families()["qwen2.5-vl"].model_copy(update={"name": name, "model_path": family.model_path})
