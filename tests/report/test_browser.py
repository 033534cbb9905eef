"""The page in a real browser, without a window and without a network: masks, screens, print, and (nightly) axe."""

import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from itertools import pairwise

import pytest
from browser import LOUD, MARKS, accessible, browser, everything
from selenium.webdriver.support.wait import WebDriverWait

from safeeraser.report.page import report

from .made_up_audits import audit, controlled
from .made_up_runs import ANSWERED, ASKED, full_results, seeded_results, write

pytestmark = MARKS
AXE = "axe-core@4.14.1"  # npm keeps what it has fetched
SCREENS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"
RUN = "details.fold:not(.long) > summary"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Nine methods, of which four were audited, three with controls: as long as a page gets."""
    results = full_results(tmp_path_factory.mktemp("results"))
    for method in ("ga", "gd", "kl", "gapd", "gdpd", "klpd"):
        shutil.copytree(results / "popd", results / method, ignore=shutil.ignore_patterns("*.jsonl"))
    for run, value in (("po", audit()), *((run, controlled()) for run in ("ga", "gd", "popd"))):
        write(results / run, "audit.json", value)
    report(results, published=True, note="A demonstration.")
    return results / "report.html"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Methods with several seeds, of which the first was audited, and the published figures."""
    results = seeded_results(tmp_path_factory.mktemp("seeded"))
    write(results / "seed0" / "popd", "audit.json", audit())
    report(results, published=True)
    return results / "report.html"


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


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


@pytest.mark.slow
def test_nothing_is_fetched_or_complained_about_and_it_can_be_walked_through(opened):
    drawn = [chart.size for chart in everything(opened, "svg.forest")]
    assert sum(size["width"] > 200 and size["height"] > 100 for size in drawn) >= 1
    assert opened.execute_script(LOUD) == [] and opened.get_log("browser") == []
    levels = opened.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    assert [len(everything(opened, tag)) for tag in ("main", "header", "nav", "footer")] == [1, 1, 1, 1]
    assert not everything(opened, "th:not([scope]), img:not([alt]), table:not(:has(caption))")
    everything(opened, "a[href='#robustness']")[0].click()
    assert opened.execute_script("return document.querySelector('#robustness').getBoundingClientRect().top") < 100


@pytest.mark.slow
def test_an_example_is_masked_until_it_is_opened_by_key_and_never_printed(opened):
    everything(opened, RUN)[0].send_keys("\ue007")  # Enter
    masked = everything(opened, "details.masked")[0]
    question, picture = (masked.find_element("css selector", part) for part in ("dd", "img"))
    selected = "getSelection().selectAllChildren(document.body); return getSelection().toString()"
    assert not question.is_displayed() and not picture.is_displayed()
    assert ASKED not in opened.find_element("css selector", "body").text
    assert ASKED not in opened.execute_script(selected) and ASKED not in accessible(opened)
    masked.find_element("css selector", "summary").send_keys("\ue007")
    assert question.is_displayed() and ASKED in question.text and ANSWERED in masked.text
    assert ASKED in accessible(opened) and picture.size["width"] > 0
    opened.execute_script(OPEN)
    # A busy browser lays out what was opened a little later.
    WebDriverWait(opened, 20).until(lambda _: all(text.is_displayed() for text in everything(opened, ".masked dd")))
    with _screen(opened, "desktop", media="print"):
        assert not any(part.is_displayed() for part in everything(opened, ".masked dd, .masked img"))


@pytest.mark.slow
def test_what_is_folded_is_printed_but_for_examples(opened):
    with _screen(opened, "desktop", media="print"):
        text = opened.find_element("css selector", "main").text
        assert "Published figures" in text and "65.4" in text and "figstep" in text
        assert not any(part.is_displayed() for part in everything(opened, ".masked dd, .masked img"))


@pytest.mark.slow
@pytest.mark.parametrize("screen", SCREENS)
def test_the_first_screen_is_the_answer_and_the_table_comes_next(driver, seeded, screen):
    """Title, sentence, warning and the plot of all own methods: each within the window, before anything is scrolled."""
    with _screen(driver, screen) as (width, height):
        driver.get(seeded.as_uri())
        texts = everything(driver, "#glance svg.forest > text")
        names = [text for text in texts if text.get_attribute("x") is None]
        assert [name.text for name in names[:3]] == ["PO+PD (3 seeds)", "vanilla (3 seeds)", "PO (3 seeds)"]
        marks = everything(driver, "#glance .seed, #glance path[fill^='#']")
        assert len(marks) == 3 * 3 * 3 + 3 * 3  # methods, figures, seeds
        for part in (*everything(driver, "h1, .finding, .note, #glance .key"), *marks, *names[:3]):
            rect = part.rect
            assert rect["x"] >= 0 and rect["x"] + rect["width"] <= width
            assert rect["y"] >= 0 and rect["y"] + rect["height"] <= height
        # A name ends before the figures in its line begin.
        figures = [text for text in texts if text.get_attribute("x") == "100%"]
        for name, figure in zip(names, figures, strict=True):
            assert name.rect["x"] + name.rect["width"] < figure.rect["x"]
        scroll = everything(driver, ".scroll")[0]
        heads = scroll.find_elements("css selector", "thead th")
        assert all(head.rect["x"] + head.rect["width"] <= width for head in heads[:3])
        place = heads[0].rect["x"]
        driver.execute_script("arguments[0].scrollLeft = 1e6", scroll)
        # The first column stays where it is.
        assert heads[0].rect["x"] == place and heads[-1].rect["x"] + heads[-1].rect["width"] <= width


@pytest.mark.slow
@pytest.mark.parametrize("scheme, paper", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 24, 26)")])
def test_the_page_is_no_wider_than_the_screen_and_short_on_a_phone(opened, scheme, paper):
    for screen in SCREENS:
        with _screen(opened, screen, scheme) as (width, _):
            opened.refresh()
            if screen == "phone":
                assert opened.execute_script("return document.documentElement.scrollHeight") < 6000
            for opening in ("", OPEN):
                opened.execute_script(opening)
                assert opened.execute_script("return document.documentElement.scrollWidth") <= width
            assert opened.execute_script("return getComputedStyle(document.body).backgroundColor") == paper


@pytest.mark.slow
def test_without_scripts_it_is_masked_all_the_same(page):
    with browser("--blink-settings=scriptEnabled=false") as driver:
        driver.implicitly_wait(20)  # without scripts it is not told when a page is there
        driver.get(page.as_uri())
        everything(driver, RUN)[0].click()
        question = everything(driver, "details.masked dd")[0]
        assert not question.is_displayed()
        everything(driver, "details.masked > summary")[0].click()
        assert question.is_displayed()


@pytest.mark.nightly
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
