"""The heat maps: what the page says by category and by keyword."""

import json
import re

import pytest

from safeeraser.benchmark.metrics import Figure
from safeeraser.report.page import report
from safeeraser.report.scale import shade

from .made_up_runs import full_results, write


@pytest.fixture
def results(tmp_path):
    return full_results(tmp_path)


def test_heat_maps_have_a_figure_in_each_cell(results):
    report(results)
    page = (results / "report.html").read_text()
    captions = re.findall(r'<caption id="(category|keyword)-(\w+)">', page)
    assert captions == [(kind, name) for kind in ("category", "keyword") for name in ("asr", "rr", "sarr")]
    cells = re.findall(r'<td style="background:(#\w+);color:(#\w+)">([\d.]+)</td>', page)
    assert len(cells) == 3 * 3 * 2 + 3 * 3 and {text for *_, text in cells} >= {"90.0", "0.0", "100.0"}
    assert '<details class="fold long">\n<summary><h3>Rates by keyword</h3></summary>' in page


def test_a_run_scored_before_there_were_categories_has_no_line_in_the_heat_maps(results):
    path = results / "po" / "summary_val.json"
    old = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("by_")}
    write(results / "po", path.name, old)
    report(results)
    assert len(re.findall(r'<td style="background', (results / "report.html").read_text())) == 2 * 3 * 2 + 3 * 2


def test_the_text_of_a_shade_stands_out():
    def luminance(colour):
        full = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for step in range(101):
        one = shade(Figure(value=step / 100), "lower")
        dark, light = sorted((luminance(one.paper), luminance(one.ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    assert shade(Figure(value=None), "lower") is shade(Figure(value=0.5, withheld="3% failed"), "lower") is None


def test_a_colour_means_the_same_in_every_map(results):
    """ASR 25, which should be low, and RR 75, which should be high, are equally good and look the same."""
    assert (
        shade(Figure(value=0.25), "lower") == shade(Figure(value=0.75), "higher") != shade(Figure(value=0.75), "lower")
    )
    report(results)
    maps = re.findall(r'<caption id="category-(\w+)">.*?</table>', (results / "report.html").read_text(), re.DOTALL)
    page = (results / "report.html").read_text()
    colours = {}
    for name in maps:
        part = page.split(f'<caption id="category-{name}">')[1].split("</table>")[0]
        rows = re.findall(r'<th scope="row">([^<]+)</th>\n<td style="background:(#\w+)', part)
        colours[name] = dict(rows)
    assert colours["asr"]["PO"] == colours["rr"]["PO"] != colours["sarr"]["PO"]  # 0, 100, and 100 that should be 0
    assert colours["rr"]["vanilla"] == colours["sarr"]["PO"]
