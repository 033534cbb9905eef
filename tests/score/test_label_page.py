"""The label sheet as a page, in a real browser: masked, labelled by keys, kept, saved, and read by --agree."""

import csv
import io
import json
import time

import pytest
from browser import LOUD, MARKS, accessible, browser, everything
from scoring import run_eval, write_files

from .test_label_sheet import FORMULA, NASTY, predictions, rows_of

pytestmark = [*MARKS, pytest.mark.slow]
SPACE, LEFT, RIGHT = " ", "\ue012", "\ue014"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def given(folder):
    files = write_files(folder, *predictions())
    return ("--judge", "rules", "--input_file", files[0], "--file_refer", files[1])


@pytest.fixture(scope="module")
def rows(folder, given):
    """The rows of a sheet with every response in it."""
    assert run_eval(*given, "--label_sheet", folder / "sheet.csv", "--label_n", 1000).returncode == 0
    return rows_of(folder / "sheet.csv")


@pytest.fixture(scope="module")
def driver(folder):
    with browser(**{"download.default_directory": str(folder / "saved")}) as driver:
        yield driver


@pytest.fixture
def opened(driver, folder, rows):
    address = (folder / "sheet.html").as_uri()
    driver.get(address)
    driver.execute_script("localStorage.clear()")
    driver.get_log("browser")
    driver.get(address)
    return driver


def press(driver, *keys):
    for key in keys:
        everything(driver, "body")[0].send_keys(key)


def text(driver, name):
    return everything(driver, f"#{name}")[0].text


def wait_for(met):
    """Wait until it is so, ten seconds at most."""
    for _ in range(100):
        if met():
            return
        time.sleep(0.1)
    raise TimeoutError


def go_to(driver, place):
    driver.execute_script(f"go({place})")


def test_a_response_is_masked_until_it_is_opened_and_again_on_the_next(opened, rows):
    body = "return document.querySelector('main').innerHTML"
    assert text(opened, "title").startswith(f"1 of {len(rows)}: ")
    assert rows[0]["response"] not in opened.execute_script(body) + accessible(opened)
    assert not everything(opened, "#texts")[0].is_displayed()
    press(opened, "1")  # what was not read is not labelled
    assert text(opened, "count") == f"0 of {len(rows)}" and text(opened, "title").startswith("1 of")
    press(opened, SPACE)
    assert text(opened, "response") == rows[0]["response"] and text(opened, "question") == rows[0]["question"]
    press(opened, "2")
    assert text(opened, "title").startswith("2 of") and text(opened, "count") == f"1 of {len(rows)}"
    assert rows[1]["response"] not in opened.execute_script(body) and not everything(opened, "#texts")[0].is_displayed()
    assert opened.execute_script(LOUD) == [] and opened.get_log("browser") == []


def test_what_is_opened_is_not_printed(opened):
    press(opened, SPACE)
    assert everything(opened, "#response")[0].is_displayed()
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not everything(opened, "#response")[0].is_displayed()
    finally:
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("response", [NASTY, FORMULA])
def test_a_response_that_wants_to_be_code_is_shown_as_text(opened, rows, response):
    place = next(n for n, row in enumerate(rows) if row["response"].lstrip("'") == response)
    go_to(opened, place)
    press(opened, SPACE)
    assert text(opened, "response") == response and opened.title == "Label sheet"
    assert opened.get_log("browser") == []


def test_a_text_from_right_to_left_is_shown_so(opened):
    opened.execute_script("items[0].response = arguments[0]", "العصفور على الغصن.")
    press(opened, SPACE)
    direction = "return getComputedStyle(document.getElementById(arguments[0])).direction"
    assert [opened.execute_script(direction, name) for name in ("response", "question")] == ["rtl", "ltr"]


def test_labels_by_keys_outlast_a_reload_are_saved_and_read(opened, rows, folder, given):
    for key in ("1", "2", "3", "1"):
        press(opened, SPACE, key)
    press(opened, LEFT, LEFT, SPACE, "2")  # the third one, once more
    opened.refresh()
    assert text(opened, "count") == f"4 of {len(rows)}" and text(opened, "title").startswith("4 of")
    assert rows[3]["response"] not in accessible(opened)
    press(opened, LEFT)
    pressed = everything(opened, "#choices button[aria-pressed='true']")
    assert len(pressed) == 1 and pressed[0].text.startswith("2")
    press(opened, "n")
    assert text(opened, "title").startswith("5 of")
    everything(opened, "#save")[0].click()
    saved = folder / "saved" / "sheet_labels.csv"
    wait_for(saved.exists)
    kept = list(csv.DictReader(io.StringIO(saved.read_text(), newline="")))
    choices = [row["choices"].split(" / ") for row in rows]
    assert [row["label"] for row in kept[:5]] == [choices[0][0], choices[1][1], choices[2][1], choices[3][0], ""]
    assert [{**row, "label": ""} for row in kept] == [{name: row[name] for name in kept[0]} for row in rows]
    assert "response" not in kept[0] and "question" not in kept[0]
    run = run_eval(*given, "--agree", saved, "--summary", folder / "summary.json")
    assert run.returncode == 0, run.stderr
    told = json.loads((folder / "summary.json").read_text())
    assert sum(of["labels"] for of in told["agreement"].values()) == 4
    assert told["agreement_with"]["labels"] == "sheet_labels.csv"


def test_what_lies_in_the_browser_and_is_no_label_is_passed_over(opened, rows, folder):
    store = opened.execute_script("return store")
    for kept in ('"x"', "{", '{"labels": {"0": "<b>", "99999": "safe"}, "place": -3}'):
        opened.execute_script("localStorage.setItem(arguments[0], arguments[1])", store, kept)
        opened.refresh()
        assert text(opened, "count") == f"0 of {len(rows)}" and text(opened, "title").startswith("1 of")


def test_what_cannot_be_kept_is_said_and_can_be_saved(opened, rows):
    """A browser whose storage is full, or shut."""
    press(opened, SPACE, "1")
    opened.execute_script("Storage.prototype.setItem = () => { throw new Error('full') }")
    assert not everything(opened, "#kept")[0].is_displayed()
    press(opened, SPACE, "2", SPACE, "1", LEFT, SPACE, "3")
    assert everything(opened, "#kept")[0].is_displayed() and text(opened, "count") == f"3 of {len(rows)}"
    choices = [row["choices"].split(" / ") for row in rows]
    assert opened.execute_script("return labels") == {"0": choices[0][0], "1": choices[1][1], "2": choices[2][2]}


def test_two_tabs_do_not_lose_each_others_labels(opened, folder, rows):
    first = opened.current_window_handle
    opened.switch_to.new_window("tab")
    try:
        opened.get((folder / "sheet.html").as_uri())
        press(opened, SPACE, "1")
        opened.switch_to.window(first)
        wait_for(lambda: opened.execute_script("return localStorage.getItem(store)"))  # of another process, maybe
        press(opened, RIGHT, SPACE, "1")
        assert text(opened, "count") == f"2 of {len(rows)}"
        opened.refresh()
        assert text(opened, "count") == f"2 of {len(rows)}"
    finally:
        opened.switch_to.window(next(name for name in opened.window_handles if name != first))
        opened.close()
        opened.switch_to.window(first)


def test_labels_are_kept_for_this_sheet_alone(opened, folder, given):
    press(opened, SPACE, "1")
    assert run_eval(*given, "--label_sheet", folder / "other.csv", "--label_seed", 3).returncode == 0
    opened.get((folder / "other.html").as_uri())
    assert text(opened, "count").startswith("0 of")


def test_a_phone_shows_it_whole(opened):
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        press(opened, SPACE)
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 390
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_disagreements_are_masked(opened, rows, folder, given):
    labels = folder / "wrong.csv"
    with open(labels, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"label": row["choices"].split(" / ")[1]} for row in rows)
    page = folder / "disagreements.html"
    for _ in range(2):  # a page of our own is replaced
        run = run_eval(*given, "--agree", labels, "--disagreements", page)
        assert run.returncode == 0, run.stderr
    assert "<script" not in page.read_text()
    opened.get(page.as_uri())
    details = everything(opened, "details")
    assert len(details) > 20 and opened.title == "Disagreements"
    response = details[0].find_element("css selector", "div:last-child")
    assert not response.is_displayed() and "plain and whole" not in everything(opened, "body")[0].text
    assert "plain and whole" not in accessible(opened)
    details[0].find_element("css selector", "summary").click()
    assert response.is_displayed() and response.text == NASTY
    assert opened.execute_script(LOUD) == [] and opened.get_log("browser") == []
    page.write_text("<p>of somebody else</p>")
    run = run_eval(*given, "--agree", labels, "--disagreements", page)
    assert run.returncode == 2 and "no earlier run of this command wrote it" in run.stderr
