"""The page in a real browser: Debian's chromium and chromium-driver, without a window and without a network."""

from itertools import pairwise

import pytest
from browser import LOUD, MARKS
from browser import accessible as _accessible
from browser import browser as _browser
from browser import everything as _all

from safeeraser.report.page import report

from .made_up_audits import audit
from .made_up_runs import ANSWERED, ASKED, full_results, write

pytestmark = MARKS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results = full_results(tmp_path_factory.mktemp("results"))
    for run in ("po", "popd"):
        write(results / run, "audit.json", audit())
    report(results, published=True, note="A demonstration.")
    return results / "report.html"


@pytest.fixture(scope="module")
def driver():
    with _browser() as driver:
        yield driver


@pytest.fixture
def opened(driver, page):
    driver.get_log("browser")
    driver.get(page.as_uri())
    return driver


def test_table_and_charts_are_there_and_nothing_is_fetched_or_complained_about(opened):
    assert "PO+PD" in _all(opened, "#runs-table")[0].text and "5.0–15.0" in _all(opened, "#runs-table")[0].text
    charts = _all(opened, "figure svg")
    assert len(charts) == 4 + 2 * 2 and all(
        chart.size["width"] > 200 and chart.size["height"] > 100 for chart in charts
    )
    assert opened.execute_script(LOUD) == []
    assert opened.get_log("browser") == []


def test_the_robustness_card_is_there(opened):
    findings = _all(opened, ".findings")
    assert len(findings) == 2 and "Worst of 2: figstep, ASR 40.0% (30.0–50.0)" in findings[0].text
    assert "figstep" in _all(opened, "#robustness-1-attacks-table")[0].text
    assert "40.0" in _all(opened, "#robustness-comparison-table")[0].text
    _all(opened, "a[href='#robustness']")[0].click()
    assert opened.execute_script("return document.querySelector('#robustness').getBoundingClientRect().top") < 100
    heads = _all(opened, "table.level th")
    assert [head.text for head in heads[:3]] == ["picture", "harmful question", "harmless question"]


def test_headings_do_not_skip_a_level_and_landmarks_are_there(opened):
    script = "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    levels = opened.execute_script(script)
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert [len(_all(opened, tag)) for tag in ("main", "header", "nav", "footer")] == [1, 1, 1, 1]
    assert not _all(opened, "th:not([scope]), img:not([alt]), table:not(:has(caption))")


def test_an_example_is_masked_until_it_is_opened_by_key(opened):
    run = _all(opened, "details.fold:not(.long) > summary")[0]
    run.click()
    masked = _all(opened, "details.masked")[0]
    question = masked.find_element("css selector", "dd")
    selected = "getSelection().selectAllChildren(document.body); return getSelection().toString()"
    assert not question.is_displayed() and ASKED not in opened.find_element("css selector", "body").text
    assert ASKED not in opened.execute_script(selected) and ASKED not in _accessible(opened)
    assert not masked.find_element("css selector", "img").is_displayed()
    masked.find_element("css selector", "summary").send_keys("\ue007")  # Enter
    assert question.is_displayed() and ASKED in question.text and ANSWERED in masked.text
    assert ASKED in _accessible(opened) and masked.find_element("css selector", "img").size["width"] > 0


def test_an_opened_example_is_not_printed(opened):
    opened.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert all(text.is_displayed() for text in _all(opened, ".masked dd"))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not any(part.is_displayed() for part in _all(opened, ".masked dd, .masked img"))
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_no_wider_than_the_screen(opened, width, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened.execute_script("document.querySelectorAll('details').forEach(details => details.open = true)")
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 26)"}[scheme]
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_without_scripts_it_is_masked_all_the_same(page):
    with _browser("--blink-settings=scriptEnabled=false") as driver:
        driver.get(page.as_uri())
        _all(driver, "details.fold:not(.long) > summary")[0].click()
        question = _all(driver, "details.masked dd")[0]
        assert not question.is_displayed()
        _all(driver, "details.masked > summary")[0].click()
        assert question.is_displayed()
