"""The picture and the table of README.md are what docs/mini.csv says, the table of the report of a run."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from safeeraser.errors import BadInput

from .pages import ROOT, load

SCRIPT = load("scripts/mini_picture.py")
ROWS = SCRIPT.read(SCRIPT.KEPT)
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_has_the_table():
    assert [row.name for row in ROWS] == ["vanilla", "GA", "GD", "KL", "PO", "GA+PD", "GD+PD", "KL+PD", "PO+PD"]
    assert f"\n{SCRIPT.table(ROWS)}\n" in README


def test_the_table_takes_the_place_of_the_one_before():
    before = README.replace(SCRIPT.table(ROWS), "\n".join(SCRIPT.table(ROWS).splitlines()[:3]))
    assert before != README and SCRIPT.with_table(before, ROWS) == README == SCRIPT.with_table(README, ROWS)
    with pytest.raises(BadInput, match=r"README\.md: no table"):
        SCRIPT.with_table("| | ASR |\n|---|---|\n", ROWS)


def test_the_picture_is_drawn_from_it():
    drawn = SCRIPT.PICTURE.read_text(encoding="utf-8")
    assert drawn == SCRIPT.picture(ROWS) and "](docs/mini.svg)" in README
    root = ElementTree.fromstring(drawn)
    told = "".join(root.itertext())
    for row in ROWS:
        assert f"{row.name}: ASR {row.cell('asr_gen').text}" in told
    assert root.attrib["viewBox"].split()[2:] == [root.attrib["width"], root.attrib["height"]]


def test_it_needs_nothing_else_and_says_which_colours_it_has():
    drawn = SCRIPT.PICTURE.read_text(encoding="utf-8")
    assert not re.search(r"<script|<image|@import|url\(|href", drawn)
    assert "prefers-color-scheme: dark" in drawn and 'class="card"' in drawn


def test_another_table_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("method,value\nPO,1\n")
    with pytest.raises(BadInput, match=r"other\.csv: not the table\.csv of a report"):
        SCRIPT.read(tmp_path / "other.csv")
