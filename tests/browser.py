"""A real browser for tests of pages: Debian's chromium and chromium-driver, without a window and without a network."""

import shutil
from contextlib import contextmanager

import pytest

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
MARKS = [pytest.mark.skipif(not (BROWSER and DRIVER), reason="no browser: apt-get install chromium chromium-driver")]
LOUD = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"


@contextmanager
def browser(*arguments, **preferences):
    """Yield a Selenium driver, which quits when the block ends."""
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.add_experimental_option("prefs", preferences)
    # Root has no sandbox in a container. The resolver rule makes every host unreachable for the browser.
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(f"--{argument}")
    for argument in arguments:
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def everything(driver, selector):
    """All elements that a selector finds."""
    return driver.find_elements("css selector", selector)


def accessible(driver):
    """The names in the accessibility tree, which a screen reader reads out."""
    nodes = driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    return " ".join(str(node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored"))
