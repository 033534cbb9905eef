"""axe-core finds nothing that keeps people from using the report: on a phone and a desktop, light, dark and printed."""

import subprocess
import tarfile

import pytest
from browser import MARKS, browser

from .test_browser import OPEN, page, seeded, shown_on  # noqa: F401 (fixtures)

pytestmark = [*MARKS, pytest.mark.nightly]
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


@pytest.mark.parametrize("scheme, media", [("light", ""), ("dark", ""), ("light", "print")])
@pytest.mark.parametrize("screen", ["phone", "desktop"])
def test_axe_finds_nothing(page, seeded, axe, screen, scheme, media):  # noqa: F811
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
