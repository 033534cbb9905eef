"""Each figure in a table of docs/results/, and each interval in its text, is in a data file that the page names."""

import csv
import re

import pytest

from .pages import ROOT, load, prose

RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
INTERVAL = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*[a-zA-Z])")
AUDIT_TABLES = load("scripts/mini_tables.py").AUDIT_TABLES


def holds(cells: list[str], shown: tuple[str, ...]) -> bool:
    """Whether a line has these numbers, one after another, as shares or in per cent, as they are rounded."""
    numbers, parts = [float(cell) for cell in cells if NUMBER.fullmatch(cell)], [each.partition("e") for each in shown]
    off = [0.51 * 10 ** (int(power or 0) - len(digits.partition(".")[2])) for digits, _, power in parts]
    runs = [numbers[start : start + len(shown)] for start in range(len(numbers) - len(shown) + 1)]
    near = [zip(run, shown, off, strict=True) for run in runs]
    return any(all(min(abs(n - float(one)), abs(100 * n - float(one))) <= by for n, one, by in run) for run in near)


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_each_figure_is_in_a_data_file(page):
    """A row's figures are in lines with its title, if there are any. test_mini.py has the tables of the audits."""
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"\]\((\w+\.csv)\)", text))
    lines = [line for name in names for line in csv.reader((page.parent / name).open(encoding="utf-8"))]
    shown = [("its text", INTERVAL.findall(prose(page)), lines)]
    text = re.sub(rf"^\| (?:{'|'.join(AUDIT_TABLES)}) \|.*\n(?:\|.*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"^.*\n\|[ |-]+\|$", "", text, flags=re.MULTILINE)  # without heads
    for title, cells in re.findall(r"^\| ?(.*?) ?\|(.*)\|$", text, re.MULTILINE):
        near = [line for line in lines if title.strip("`").lower() in [cell.lower() for cell in line]] or lines
        numbers = [(each,) for each in NUMBER.findall(INTERVAL.sub("", cells))]
        shown.append((title, INTERVAL.findall(cells) + numbers, near))
    for title, each, near in ((title, each, near) for title, figures, near in shown for each in figures):
        assert any(holds(line, each) for line in near), (title, each)
