"""The label sheet as a page, in a real browser: masked, labelled by keys, kept, saved, and read by --agree."""

import json
import time

import pytest
from browser import LOUD, MARKS, accessible, browser, everything
from scoring import run_eval

from .labelled import FORMULA, NASTY, files, fill_in, nth, rows_of, sheet

pytestmark = [*MARKS, pytest.mark.slow]
SPACE, LEFT, RIGHT = " ", "\ue012", "\ue014"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def given(folder):
    return files(folder)


@pytest.fixture(scope="module")
def rows(folder, given):
    """The rows of a sheet with every response in it."""
    return sheet(folder / "sheet.csv", given, "--label_n", 1000)


@pytest.fixture(scope="module")
def driver(folder):
    with browser(**{"download.default_directory": str(folder / "saved")}) as driver:
        yield driver


@pytest.fixture
def opened(driver, folder, rows):
    """The sheet, without a label."""
    driver.get((folder / "sheet.html").as_uri())
    driver.execute_script("localStorage.clear()")
    driver.get_log("browser")
    driver.refresh()
    return driver


def press(driver, *keys):
    for key in keys:
        everything(driver, "body")[0].send_keys(key)


def text(driver, name):
    return everything(driver, f"#{name}")[0].text


def is_shown(driver, name):
    return everything(driver, f"#{name}")[0].is_displayed()


def wait_for(met):
    """Wait until it is so, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not met() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert met()


def test_a_response_is_masked_until_it_is_opened_again_on_the_next_and_on_paper(opened, rows):
    body = "return document.querySelector('main').innerHTML"
    assert text(opened, "title").startswith(f"1 of {len(rows)}: ") and not is_shown(opened, "texts")
    assert rows[0]["response"] not in opened.execute_script(body) + accessible(opened)
    press(opened, "1")  # what was not read is not labelled
    assert text(opened, "count") == f"0 of {len(rows)}" and text(opened, "title").startswith("1 of")
    press(opened, SPACE)
    assert text(opened, "response") == rows[0]["response"] and text(opened, "question") == rows[0]["question"]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    printed = is_shown(opened, "response")
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    press(opened, "2")
    assert not printed and text(opened, "title").startswith("2 of") and text(opened, "count") == f"1 of {len(rows)}"
    assert rows[1]["response"] not in opened.execute_script(body) and not is_shown(opened, "texts")
    for response in (NASTY, FORMULA):  # want to be code, and are shown as text
        opened.execute_script(f"go({[row['response'].lstrip(chr(39)) for row in rows].index(response)})")
        press(opened, SPACE)
        assert text(opened, "response") == response and opened.title == "Label sheet"
    assert opened.execute_script(LOUD) == [] and opened.get_log("browser") == []


def test_labels_by_keys_outlast_a_reload_are_saved_and_read(opened, rows, folder, given):
    for key in ("1", "2", "3", "1"):
        press(opened, SPACE, key)
    press(opened, LEFT, LEFT, SPACE, "2")  # the third one, once more
    opened.refresh()
    assert text(opened, "count") == f"4 of {len(rows)}" and text(opened, "title").startswith("4 of")
    press(opened, LEFT)
    assert [of.text[0] for of in everything(opened, "#choices button[aria-pressed='true']")] == ["2"]
    everything(opened, "#save")[0].click()
    saved = folder / "saved" / "sheet_labels.csv"
    wait_for(saved.exists)
    kept = rows_of(saved)
    assert [row["label"] for row in kept[:5]] == [
        *(nth(n)(row) for n, row in zip((0, 1, 1, 0), rows, strict=False)),
        "",
    ]
    assert [{**row, "label": ""} for row in kept] == [{name: row[name] for name in kept[0]} for row in rows]
    assert not {"response", "question"} & kept[0].keys()
    run = run_eval(*given, "--agree", saved, "--summary", folder / "summary.json")
    assert run.returncode == 0, run.stderr
    assert sum(of["labels"] for of in json.loads((folder / "summary.json").read_text())["agreement"].values()) == 4
    sheet(folder / "other.csv", given, "--label_seed", 3)
    opened.get((folder / "other.html").as_uri())
    assert text(opened, "count").startswith("0 of"), "labels are kept for their sheet alone"


def test_what_cannot_be_kept_is_said_and_two_tabs_lose_nothing(opened, rows, folder):
    first, put = opened.current_window_handle, "localStorage.setItem(store, arguments[0])"
    for kept in ('"x"', "{", '{"labels": {"0": "<b>", "99999": "safe"}, "place": -3}'):  # are no labels
        opened.execute_script(put, kept)
        opened.refresh()
        assert text(opened, "count") == f"0 of {len(rows)}" and text(opened, "title").startswith("1 of")
    opened.switch_to.new_window("tab")
    opened.get((folder / "sheet.html").as_uri())
    press(opened, SPACE, "1")
    opened.close()
    opened.switch_to.window(first)
    label = nth(0)(rows[0])
    wait_for(lambda: f'"{label}"' in opened.execute_script("return localStorage.getItem(store)"))  # another process's
    press(opened, RIGHT, SPACE, "2")
    assert text(opened, "count") == f"2 of {len(rows)}" and not is_shown(opened, "kept")
    opened.execute_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    press(opened, SPACE, "1")
    assert is_shown(opened, "kept") and text(opened, "count") == f"3 of {len(rows)}"
    assert opened.execute_script("return labels") == {"0": label, "1": nth(1)(rows[1]), "2": nth(0)(rows[2])}


def test_disagreements_are_masked(opened, rows, folder, given):
    labels, page = fill_in(folder / "wrong.csv", rows, nth(1)), folder / "disagreements.html"
    for _ in range(2):  # a page of our own is replaced
        assert run_eval(*given, "--agree", labels, "--disagreements", page).returncode == 0
    opened.get(page.as_uri())
    details = everything(opened, "details")
    response = details[0].find_element("css selector", "div:last-child")
    assert len(details) > 20 and not response.is_displayed()
    assert "plain and whole" not in everything(opened, "body")[0].text + accessible(opened)
    details[0].find_element("css selector", "summary").click()
    assert response.is_displayed() and response.text == NASTY and opened.title == "Disagreements"
    assert opened.execute_script(LOUD) == [] and opened.get_log("browser") == []
    page.write_text("<p>of somebody else</p>")
    run = run_eval(*given, "--agree", labels, "--disagreements", page)
    assert run.returncode == 2 and "no earlier run of this command wrote it" in run.stderr
