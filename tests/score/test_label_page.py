"""The label sheet as a page, in a real browser: masked, labelled by keys, kept, saved, and read by --agree."""

import json

import pytest
from browser import LOUD, MARKS, accessible, browser, everything
from helpers import until
from scoring import run_eval

from .labelled import FORMULA, NASTY, files, fill_in, nth, rows_of, sheet

pytestmark = [*MARKS, pytest.mark.slow]
SPACE, LEFT = " ", "\ue012"


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A browser, the folder of a sheet with all responses, the options of its run, and its rows."""
    folder = tmp_path_factory.mktemp("page")
    given = files(folder)
    rows = sheet(folder / "sheet.csv", given, "--label_n", 1000)
    with browser(**{"download.default_directory": str(folder / "saved")}) as driver:
        yield driver, folder, given, rows


def press(driver, *keys):
    for key in keys:
        everything(driver, "body")[0].send_keys(key)


def text(driver, name):
    return everything(driver, f"#{name}")[0].text


def is_shown(driver, name):
    return everything(driver, f"#{name}")[0].is_displayed()


def test_responses_are_masked_and_labels_by_keys_outlast_a_reload_are_saved_and_read(opened):
    driver, folder, given, rows = opened
    driver.get((folder / "sheet.html").as_uri())
    body = "return document.querySelector('main').innerHTML"
    assert text(driver, "title").startswith(f"1 of {len(rows)}: ") and not is_shown(driver, "texts")
    assert rows[0]["response"] not in driver.execute_script(body) + accessible(driver)
    press(driver, "1")  # an unread response is not labelled
    assert text(driver, "count") == f"0 of {len(rows)}" and text(driver, "title").startswith("1 of")
    press(driver, SPACE)
    assert text(driver, "response") == rows[0]["response"] and text(driver, "question") == rows[0]["question"]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not is_shown(driver, "response")
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    press(driver, "1")
    assert rows[1]["response"] not in driver.execute_script(body) and not is_shown(driver, "texts")
    for key in ("2", "3", "1"):
        press(driver, SPACE, key)
    press(driver, LEFT, LEFT, SPACE, "2")  # the third one, once more
    driver.refresh()
    assert text(driver, "count") == f"4 of {len(rows)}" and text(driver, "title").startswith("4 of")
    press(driver, LEFT)
    assert [of.text[0] for of in everything(driver, "#choices button[aria-pressed='true']")] == ["2"]
    for response in (NASTY, FORMULA):  # code is shown as text
        driver.execute_script(f"go({[row['response'].lstrip(chr(39)) for row in rows].index(response)})")
        press(driver, SPACE)
        assert text(driver, "response") == response and driver.title == "Label sheet"
    everything(driver, "#save")[0].click()
    until((saved := folder / "saved" / "sheet_labels.csv").exists, seconds=20)
    kept = rows_of(saved)
    labelled = [nth(n)(row) for n, row in zip((0, 1, 1, 0), rows[:4], strict=True)]
    assert [row["label"] for row in kept[:5]] == [*labelled, ""]
    assert [{**row, "label": ""} for row in kept] == [{name: row[name] for name in kept[0]} for row in rows]
    assert not {"response", "question"} & kept[0].keys()
    run = run_eval(*given, "--agree", saved, "--summary", folder / "summary.json")
    assert run.returncode == 0, run.stderr
    assert sum(of["labels"] for of in json.loads((folder / "summary.json").read_text())["agreement"].values()) == 4
    assert driver.execute_script(LOUD) == [] and driver.get_log("browser") == []


def test_disagreements_are_masked(opened):
    driver, folder, given, rows = opened
    labels, page = fill_in(folder / "wrong.csv", rows, nth(1)), folder / "disagreements.html"
    assert run_eval(*given, "--agree", labels, "--disagreements", page).returncode == 0
    driver.get(page.as_uri())
    details = everything(driver, "details")
    response = details[0].find_element("css selector", "div:last-child")
    assert len(details) > 20 and not response.is_displayed()
    assert "plain and whole" not in everything(driver, "body")[0].text + accessible(driver)
    details[0].find_element("css selector", "summary").click()
    assert response.is_displayed() and response.text == NASTY
    assert driver.execute_script(LOUD) == [] and driver.get_log("browser") == []
