"""docs/models.md: its table is that of the pages, it names all keys of a page, and the page that it adds composes."""

import re

from helpers import config

from safeeraser.benchmark import family as pages
from safeeraser.unlearn.composed import read_settings

from .pages import ROOT

PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """The cells of a section's first table, without its head."""
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def lmms_of(family: pages.Family) -> str:
    return family.lmms_eval.model if family.lmms_eval else "none"


def test_the_table_is_that_of_the_pages():
    told = {
        re.match(r"`(\S+)`", name)[1]: (re.match(r"`(\S+)`", path)[1], decoder, lmms.strip("`"))
        for name, path, decoder, lmms in rows(PAGE)
    }
    there = {name: each for name, each in pages.families().items() if each.model_path}
    assert told == {name: (each.model_path, each.decoder, lmms_of(each)) for name, each in there.items()}
    # "A dry run needs the hub for none of them": the mini benchmark's models lie in folders.
    assert [name for name, each in there.items() if not each.architecture] == ["llava-mini", "llava-mini-small"]


def test_every_key_of_a_page_is_told():
    section = PAGE.partition("\n## What a page says\n")[2]
    told = [name for cells in rows(section) for name in re.findall(r"`(\w+)`", cells[0])]
    assert sorted(told) == sorted(pages.Family.model_fields)


def test_the_page_that_it_adds_composes(tmp_path, monkeypatch):
    name, text = re.search(r"^# config/model_family/(\S+)\.yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL).groups()
    assert len(text.splitlines()) < 10
    added = tmp_path / "model_family" / f"{name}.yaml"
    added.parent.mkdir()
    added.write_text(text, encoding="utf-8")
    family = read_settings(config(f"model_family={name}", f"hydra.searchpath=[{tmp_path}]")).model_family
    base = pages.families()["qwen2.5-vl"]
    named = {"name": name, "model_path": family.model_path}
    assert family == base.model_copy(update=named) and family.model_path.startswith("Qwen/")
