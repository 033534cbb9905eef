"""The page in a real browser, without a window and without a network: masks, screens and print. Nightly, axe-core
searches it for barriers to its users: on a phone and a desktop, light, dark and printed."""

import shutil
import subprocess
import tarfile

import pytest
from browser import LOUD, MARKS, accessible, browser, everything
from selenium.webdriver.support.wait import WebDriverWait

from safeeraser.report.page import report

from .made_up_runs import ANSWERED, ASKED, audit, full_results, seeded_results, write

pytestmark = [*MARKS, pytest.mark.slow]
SCREENS = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
OPEN = "document.querySelectorAll('details').forEach(details => details.open = true)"
RUN = "details.fold:not(.long) > summary"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Nine methods, four audited with controls: as long as a page gets."""
    results = full_results(tmp_path_factory.mktemp("results"))
    for method in ("ga", "gd", "kl", "gapd", "gdpd", "klpd"):
        shutil.copytree(results / "popd", results / method, ignore=shutil.ignore_patterns("*.jsonl"))
    for run in ("ga", "gd", "po", "popd"):
        write(results / run, "audit.json", audit())
    report(results, published=True, note="A demonstration.", show_examples=True)
    return (results / "report.html").as_uri()


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """Methods with several seeds, the first seed of PO+PD audited, and the published figures."""
    results = seeded_results(tmp_path_factory.mktemp("seeded"))
    write(results / "seed0" / "popd", "audit.json", audit())
    report(results, published=True)
    return (results / "report.html").as_uri()


@pytest.fixture(scope="module")
def driver():
    with browser() as driver:
        yield driver


def shown_on(driver, name, scheme="light", media=""):
    """From now on, show pages as on this screen, or on paper; return the screen's width and height."""
    width, height = SCREENS[name]
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return width, height


def test_an_example_is_masked_until_it_is_opened_by_key_and_never_printed(driver, page):
    shown_on(driver, "desktop")
    driver.get_log("browser")
    driver.get(page)
    assert driver.execute_script(LOUD) == [] and driver.get_log("browser") == [], "nothing is fetched"
    everything(driver, RUN)[0].send_keys("\ue007")  # Enter
    masked = everything(driver, "details.masked")[0]
    question, picture = (masked.find_element("css selector", part) for part in ("dd", "img"))
    selected = "getSelection().selectAllChildren(document.body); return getSelection().toString()"
    assert not question.is_displayed() and not picture.is_displayed()
    assert ASKED not in driver.find_element("css selector", "body").text
    assert ASKED not in driver.execute_script(selected) and ASKED not in accessible(driver)
    masked.find_element("css selector", "summary").send_keys("\ue007")
    assert question.is_displayed() and ASKED in question.text and ANSWERED in masked.text
    assert ASKED in accessible(driver) and picture.size["width"] > 0
    driver.execute_script(OPEN)
    # A busy browser lays out the opened parts a little later.
    WebDriverWait(driver, 20).until(lambda _: all(text.is_displayed() for text in everything(driver, ".masked dd")))
    shown_on(driver, "desktop", media="print")
    for page_again in (lambda: None, driver.refresh):  # with all folds open, and closed
        page_again()
        text = driver.find_element("css selector", "main").text
        assert "Published figures" in text and "65.4" in text and "figstep" in text
        assert not any(part.is_displayed() for part in everything(driver, ".masked dd, .masked img"))


@pytest.mark.parametrize("scheme, paper", [("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 24, 26)")])
def test_the_page_is_no_wider_than_the_screen_and_short_on_a_phone(driver, page, scheme, paper):
    for screen in SCREENS:
        width, _ = shown_on(driver, screen, scheme)
        driver.get(page)
        assert screen != "phone" or driver.execute_script("return document.documentElement.scrollHeight") < 6000
        for opening in ("", OPEN):
            driver.execute_script(opening)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") == paper


AXE = "axe-core@4.14.1"


@pytest.fixture(scope="module")
def axe(tmp_path_factory):
    """The source of axe-core, fetched by npm."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(["npm", "pack", AXE, "--prefer-offline", "--ignore-scripts"], cwd=folder, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"npm could not fetch {AXE}: {error}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.mark.nightly
@pytest.mark.parametrize("scheme, media", [("light", ""), ("dark", ""), ("light", "print")])
@pytest.mark.parametrize("screen", ["phone", "desktop"])
def test_axe_finds_nothing(page, seeded, axe, screen, scheme, media):
    with browser() as driver:
        shown_on(driver, screen, scheme, media)
        for url in (page, seeded):
            driver.get(url)
            driver.execute_script(axe)
            for opening in ("", OPEN):
                driver.execute_script(opening)
                found = driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
                assert len(found["passes"]) > 20
                assert [(one["id"], node["html"][:200]) for one in found["violations"] for node in one["nodes"]] == []
