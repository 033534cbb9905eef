"""Each figure in a table of docs/results/, and each interval in its text, is in a data file that the page names."""

import csv
import re

import pytest
import yaml

from .pages import ROOT, load, prose

RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
INTERVAL = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*[a-zA-Z])")
PICTURE, AUDIT = load("scripts/mini_picture.py"), load("scripts/mini_audit.py")


def holds(cells: list[str], shown: tuple[str, ...]) -> bool:
    """Whether a line has these numbers, one after another, as shares or in per cent, as they are rounded."""
    numbers, parts = [float(cell) for cell in cells if NUMBER.fullmatch(cell)], [each.partition("e") for each in shown]
    off = [0.51 * 10 ** (int(power or 0) - len(digits.partition(".")[2])) for digits, _, power in parts]
    runs = [numbers[start : start + len(shown)] for start in range(len(numbers) - len(shown) + 1)]
    near = [zip(run, shown, off, strict=True) for run in runs]
    return any(all(min(abs(n - float(one)), abs(100 * n - float(one))) <= by for n, one, by in run) for run in near)


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_each_figure_is_in_a_data_file(page):
    """A row's figures are in lines with its title, if there are any. A test below has the tables of the audits."""
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"\]\((\w+\.csv)\)", text))
    lines = [line for name in names for line in csv.reader((page.parent / name).open(encoding="utf-8"))]
    shown = [("its text", INTERVAL.findall(prose(page)), lines)]
    text = re.sub(rf"^\| (?:{'|'.join(AUDIT.TABLES)}) \|.*\n(?:\|.*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"^.*\n\|[ |-]+\|$", "", text, flags=re.MULTILINE)  # without heads
    for title, cells in re.findall(r"^\| ?(.*?) ?\|(.*)\|$", text, re.MULTILINE):
        near = [line for line in lines if title.strip("`").lower() in [cell.lower() for cell in line]] or lines
        numbers = [(each,) for each in NUMBER.findall(INTERVAL.sub("", cells))]
        shown.append((title, INTERVAL.findall(cells) + numbers, near))
    for title, each, near in ((title, each, near) for title, figures, near in shown for each in figures):
        assert any(holds(line, each) for line in near), (title, each)


def test_the_tables_and_the_picture_are_what_the_scripts_make_of_the_files():
    files = {**PICTURE.small_contents(PICTURE.SMALL), PICTURE.PICTURE: PICTURE.picture(PICTURE.read(PICTURE.KEPT))}
    assert {path: path.read_text(encoding="utf-8") for path in files} == files
    ours, theirs = PICTURE.read(PICTURE.KEPT), PICTURE.read(PICTURE.OTHERS)
    made = [(PICTURE.README, ours, ""), (PICTURE.PAGE, ours, PICTURE.OURS), (PICTURE.PAGE, theirs, PICTURE.THEIRS)]
    assert all(PICTURE.with_table(page, rows, corner) == page.read_text("utf-8") for page, rows, corner in made)
    assert "](docs/results/mini.svg)" in PICTURE.README.read_text(encoding="utf-8")


@pytest.mark.parametrize(("model", "pretrained"), [("mini", False), ("mini-small", True)])
def test_a_page_has_the_tables_of_the_audits_that_were_made(model, pretrained):
    """And what was measured bears what controls are for: vanilla knows answers apart, who never knew does so less, and
    not at all where language was learnt from these texts alone."""
    page, lines = AUDIT.PAGES[model], AUDIT.read(AUDIT.kept_in(model))
    assert AUDIT.with_tables(page, lines) == page.read_text(encoding="utf-8")
    gaps = {one.subject: one for one in lines if (one.what, one.where) == ("gap", "inside inside")}
    assert 0 < gaps["never_knew"].high < gaps["vanilla"].low and (gaps["never_knew"].low > 0) == pretrained
    of = {one for one in AUDIT.ROWS.values() if one[0] in AUDIT.OF[model]}
    assert of == {(one.method, one.subject) for one in lines}


@pytest.mark.parametrize(("model", "size", "count"), [("mini", "tiny", 18), ("mini-small", "small", 4)])
def test_steps_and_rates_are_those_that_the_rule_takes(model, size, count):
    """Of equally many runs of each method, at the same rates."""
    settings = load("scripts/mini_settings.py")
    trials = settings.read(settings.kept_in(model))
    tables = yaml.safe_load((ROOT / "config" / "mini.yaml").read_text(encoding="utf-8"))["tables"][size]["methods"]
    by_method = {method: [each for each in trials if each.method == method] for method in {t.method for t in trials}}
    assert len(by_method) == count and len({tuple(each.lr for each in its) for its in by_method.values()}) == 1
    for method, its in by_method.items():
        chosen = settings.choose(its)
        assert (tables[method]["lr"], tables[method]["max_train_steps"]) == (chosen.lr, chosen.max_train_steps)
