"""Each table and picture of the mini benchmark in README.md and docs/ is made from its CSV file there.

The rule by which steps and rates were chosen gives the ones of config/mini.yaml.
"""

import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml

from .pages import ROOT, load

SCRIPT = load("scripts/mini_picture.py")
ROWS = SCRIPT.read(SCRIPT.KEPT)
PAGES = [(SCRIPT.README, SCRIPT.KEPT), (SCRIPT.PAGE, SCRIPT.OTHERS), (SCRIPT.SMALL_PAGE, SCRIPT.SMALL)]


@pytest.mark.parametrize(("page", "kept"), PAGES)
def test_the_table_takes_the_place_of_the_one_before(tmp_path, page, kept):
    rows, now = SCRIPT.read(kept), page.read_text(encoding="utf-8")
    copy = tmp_path / page.name
    copy.write_text(now.replace(SCRIPT.table(rows), "\n".join(SCRIPT.table(rows).splitlines()[:3])))
    assert copy.read_text() != now and SCRIPT.with_table(copy, rows) == now == SCRIPT.with_table(page, rows)


def test_the_small_sizes_page_has_what_is_left_of_language():
    """Kept of the runs beside the table, and shown as it is kept."""
    written = SCRIPT.small_contents(SCRIPT.SMALL)
    assert {path: path.read_text(encoding="utf-8") for path in written} == written
    lines = SCRIPT.read_language(SCRIPT.SMALL)
    assert f"\n{SCRIPT.language_table(lines)}\n" in SCRIPT.SMALL_PAGE.read_text(encoding="utf-8")
    runs = {line["run"].partition("-seed")[0] for line in lines}
    assert len(runs) == len(SCRIPT.read(SCRIPT.SMALL)) and lines[-1]["run"] == "vanilla"


def test_the_picture_is_drawn_from_it():
    assert [row.name for row in ROWS] == ["vanilla", "GA", "GD", "KL", "PO", "GA+PD", "GD+PD", "KL+PD", "PO+PD"]
    drawn = SCRIPT.PICTURE.read_text(encoding="utf-8")
    assert drawn == SCRIPT.picture(ROWS) and "](docs/results/mini.svg)" in SCRIPT.README.read_text(encoding="utf-8")
    told = "".join(ElementTree.fromstring(drawn).itertext())
    assert all(f"{row.name}: ASR {row.cell('asr_gen').text}" in told for row in ROWS)


@pytest.mark.parametrize(("model", "size", "rates"), [("mini", "tiny", None), ("mini-small", "small", (5e-4, 1e-3))])
def test_readers_see_how_steps_and_rate_were_chosen(model, size, rates):
    # Each method has been run as often as any other, at the same rates, and the page has what the rule takes.
    settings = load("scripts/mini_settings.py")
    trials = settings.read(settings.kept_in(model))
    methods = settings.METHODS if size == "tiny" else ("po", "popd", "klpd", "npo+pd")
    assert {each.method for each in trials} == set(methods)
    tables = yaml.safe_load((ROOT / "config" / "mini.yaml").read_text(encoding="utf-8"))["tables"][size]["methods"]
    for method in methods:
        its = [each for each in trials if each.method == method]
        assert tuple(each.lr for each in its) == (rates or settings.RATES)
        chosen = settings.choose(its)
        assert (tables[method]["lr"], tables[method]["max_train_steps"]) == (chosen.lr, chosen.max_train_steps)


def test_each_interval_in_the_audits_prose_was_measured():
    audited, number = load("scripts/mini_audit.py"), r"(-?[\d.]+)"
    lines = [line[-3:] for line in audited.read(audited.kept_in("mini")) if line.high is not None]
    text = " ".join(audited.PAGES["mini"].read_text(encoding="utf-8").partition("\n## The audit\n")[2].split())
    said = re.findall(rf"{number} \[{number}, {number}\]", text)
    assert len(said) > 20
    for triple in said:
        off = 0.5 / 10 ** max(len(part.partition(".")[2]) for part in triple) + 1e-6
        near = pytest.approx(list(map(float, triple)), abs=off)
        assert any([scale * value for value in line] == near for line in lines for scale in (1, 100)), triple


@pytest.mark.parametrize(("model", "pretrained"), [("mini", False), ("mini-small", True)])
def test_a_page_has_the_tables_of_the_audits_that_were_made(model, pretrained):
    """And what was measured bears what controls are for: vanilla tells answers apart, who never knew does so less, and
    not at all where language was learnt from these texts alone."""
    audited = load("scripts/mini_audit.py")
    page, lines = audited.PAGES[model], audited.read(audited.kept_in(model))
    assert audited.with_tables(page, lines) == page.read_text(encoding="utf-8")
    gaps = {one.subject: one for one in lines if (one.what, one.where) == ("gap", "inside inside")}
    assert 0 < gaps["never_knew"].high < gaps["vanilla"].low and (gaps["never_knew"].low > 0) == pretrained
    of = {one for one in audited.ROWS.values() if one[0] in audited.OF[model]}
    assert of == {(one.method, one.subject) for one in lines}
