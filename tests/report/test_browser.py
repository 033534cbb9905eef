"""The page in a real browser: Debian's chromium and chromium-driver, without a window and without a network."""

import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from itertools import pairwise

import pytest
from browser import LOUD, MARKS
from browser import accessible as _accessible
from browser import browser as _browser
from browser import everything as _all
from selenium.webdriver.support.wait import WebDriverWait

from safeeraser.report.page import report

from .made_up_audits import audit, controlled
from .made_up_runs import ANSWERED, ASKED, full_results, seeded_results, write

pytestmark = [*MARKS, pytest.mark.slow]
AXE = "axe-core@4.14.1"  # npm keeps what it has fetched
SCREENS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    results = full_results(tmp_path_factory.mktemp("results"))
    for run, value in (("po", audit()), ("popd", controlled())):
        write(results / run, "audit.json", value)
    report(results, published=True, note="A demonstration.")
    return results / "report.html"


@pytest.fixture(scope="module")
def driver():
    with _browser() as driver:
        yield driver


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Methods with several seeds, of which the first were audited, and the published figures."""
    results = seeded_results(tmp_path_factory.mktemp("seeded"))
    for run in ("po", "popd"):
        write(results / "seed0" / run, "audit.json", audit())
    report(results, published=True)
    return results / "report.html"


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, which looks for what keeps people from using a page."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if not npm:
        pytest.skip(f"no npm, by which {AXE} comes")
    done = subprocess.run([npm, "pack", AXE, "--prefer-offline", "--ignore-scripts"], cwd=folder, capture_output=True)
    if done.returncode:
        pytest.skip(f"npm could not fetch {AXE}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@contextmanager
def _screen(driver, name, scheme="light", media=""):
    width, height = SCREENS[name]
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        yield width, height
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


@pytest.fixture
def opened(driver, page):
    driver.get_log("browser")
    driver.get(page.as_uri())
    return driver


def test_table_and_charts_are_there_and_nothing_is_fetched_or_complained_about(opened):
    assert "PO+PD" in _all(opened, "#runs-table")[0].text and "5.0–15.0" in _all(opened, "#runs-table")[0].text
    charts = _all(opened, "figure svg")
    assert len([chart for chart in charts if chart.get_attribute("role") == "img"]) == 3 + 2 + 2 + 3
    drawn = [chart.size for chart in _all(opened, "svg.forest")]
    assert len(drawn) == 3 and all(size["width"] > 200 and size["height"] > 100 for size in drawn)
    assert opened.execute_script(LOUD) == []
    assert opened.get_log("browser") == []


def test_the_robustness_card_is_there(opened):
    assert (
        "ASR is 10.0% (0.0–20.0) as trained, and 70.0% (60.0–80.0) where it was highest, after 4 steps on forget"
        in (opened.find_element("css selector", "#robustness-1 + p").text)
    )
    assert [lines.text[:28] for lines in _all(opened, ".findings") if lines.is_displayed()] == [
        "Does it look at the picture?"
    ]
    opened.execute_script(OPEN)
    findings = _all(opened, ".findings")
    assert len(findings) == 3 and "Worst of 2: figstep, ASR 40.0% (30.0–50.0)" in findings[0].text
    assert "figstep" in _all(opened, "#robustness-1-attacks-table")[0].text
    assert "40.0" in _all(opened, "#robustness-comparison-table")[0].text
    _all(opened, "a[href='#robustness']")[0].click()
    assert opened.execute_script("return document.querySelector('#robustness').getBoundingClientRect().top") < 100
    heads = _all(opened, "#robustness-1-refusals-table th")
    assert [head.text for head in heads[:3]] == ["picture", "harmful question", "harmless question"]


def test_headings_do_not_skip_a_level_and_landmarks_are_there(opened):
    script = "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    levels = opened.execute_script(script)
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert [len(_all(opened, tag)) for tag in ("main", "header", "nav", "footer")] == [1, 1, 1, 1]
    assert not _all(opened, "th:not([scope]), img:not([alt]), table:not(:has(caption))")


def test_an_example_is_masked_until_it_is_opened_by_key(opened):
    run = _all(opened, "details.fold:not(.long) > summary")[0]
    run.send_keys("\ue007")
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
    opened.execute_script(OPEN)
    # A busy browser lays out what was opened a little later.
    WebDriverWait(opened, 20).until(lambda _: all(text.is_displayed() for text in _all(opened, ".masked dd")))
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not any(part.is_displayed() for part in _all(opened, ".masked dd, .masked img"))
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("screen", SCREENS)
def test_the_first_screen_is_the_answer(driver, seeded, screen):
    """Title, sentence, warning and the plot of all own methods: each within the window, before anything is scrolled."""
    with _screen(driver, screen) as (width, height):
        driver.get(seeded.as_uri())
        rects = [part.rect for part in _all(driver, "h1, .finding, .note, #glance .key")]
        texts = _all(driver, "#glance svg.forest > text")
        names = [text for text in texts if text.get_attribute("x") is None]
        assert [name.text for name in names[:3]] == ["PO+PD (3 seeds)", "vanilla (3 seeds)", "PO (3 seeds)"]
        rects += [part.rect for part in _all(driver, "#glance .seed, #glance path[fill^='#']")] + [
            n.rect for n in names[:3]
        ]
        assert len(rects) == 3 + 4 + 3 * 3 * 3 + 3 * 3 + 3
        assert all(rect["x"] >= 0 and rect["x"] + rect["width"] <= width for rect in rects)
        assert all(rect["y"] >= 0 and rect["y"] + rect["height"] <= height for rect in rects)
        published = [name.text for name in names[3:]]
        assert len(published) == 6 and "7B PO+PD, SineProject" in published
        # A name ends before the figures in its line begin.
        figures = [text for text in texts if text.get_attribute("x") == "100%"]
        for name, figure in zip(names, figures, strict=True):
            assert name.rect["x"] + name.rect["width"] < figure.rect["x"]


@pytest.mark.parametrize("screen", SCREENS)
def test_the_table_comes_next_and_its_first_column_stays(driver, seeded, screen):
    with _screen(driver, screen) as (width, _):
        driver.get(seeded.as_uri())
        scroll = _all(driver, ".scroll")[0]
        heads = scroll.find_elements("css selector", "thead th")
        assert [head.text for head in heads[:4]] == ["method", "ASR-Gen ↓", "SARR ↓", "ROUGE ↑"]
        assert all(head.rect["x"] + head.rect["width"] <= width for head in heads[:3])
        place = heads[0].rect["x"]
        driver.execute_script("arguments[0].scrollLeft = 1e6", scroll)
        assert heads[0].rect["x"] == place and heads[-1].rect["x"] + heads[-1].rect["width"] <= width


def test_the_page_is_short_on_a_phone(driver, page, seeded, tmp_path):
    """Of nine methods, all but the untouched model audited, and the published figures, too."""
    results = full_results(tmp_path)
    for method in ("ga", "gd", "kl", "gapd", "gdpd", "klpd"):
        shutil.copytree(results / "popd", results / method)
    for summary in results.glob("*/summary_val.json"):
        if summary.parent.name != "vanilla":
            write(summary.parent, "audit.json", controlled())
    report(results, published=True)
    with _screen(driver, "phone"):
        for file, bound in ((page, 4000), (seeded, 4000), (results / "report.html", 6000)):
            driver.get(file.as_uri())
            assert driver.execute_script("return document.documentElement.scrollHeight") < bound
    assert len(_all(driver, "svg.forest")) == 9


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_no_wider_than_the_screen(opened, screen, scheme):
    with _screen(opened, screen, scheme) as (width, _):
        for opening in ("", OPEN):
            opened.execute_script(opening)
            assert opened.execute_script("return document.documentElement.scrollWidth") <= width
        paper = opened.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 26)"}[scheme]


@pytest.mark.parametrize("scheme, media", [("light", ""), ("dark", ""), ("light", "print")])
@pytest.mark.parametrize("screen", ["phone", "desktop"])
def test_axe_finds_nothing(driver, page, seeded, axe, screen, scheme, media):
    """Every rule, best practices among them, with all folds closed and with all open."""
    with _screen(driver, screen, scheme, media):
        for file in (page, seeded):
            driver.get(file.as_uri())
            driver.execute_script(axe)
            for opening in ("", OPEN):
                driver.execute_script(opening)
                found = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
                assert len(found["passes"]) > 20
                told = [(one["id"], node["html"][:200]) for one in found["violations"] for node in one["nodes"]]
                assert told == []


def test_what_is_folded_is_printed_but_for_examples(opened):
    with _screen(opened, "desktop", media="print"):
        text = opened.find_element("css selector", "main").text
        assert "Published figures" in text and "65.4" in text and "figstep" in text
        assert not any(part.is_displayed() for part in _all(opened, ".masked dd, .masked img"))


def test_without_scripts_it_is_masked_all_the_same(page):
    with _browser("--blink-settings=scriptEnabled=false") as driver:
        driver.implicitly_wait(20)  # without scripts it is not told when a page is there
        driver.get(page.as_uri())
        _all(driver, "details.fold:not(.long) > summary")[0].click()
        question = _all(driver, "details.masked dd")[0]
        assert not question.is_displayed()
        _all(driver, "details.masked > summary")[0].click()
        assert question.is_displayed()
