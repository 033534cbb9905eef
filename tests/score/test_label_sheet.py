"""`--label_sheet`: which responses are drawn for people to label, the table they fill in, and how it is read."""

from collections import Counter

import pytest
from helpers import read_beside
from scoring import run_eval

from safeeraser.score.labels import read_labels

from .labelled import FORMULA, NASTY, files, fill_in, nth, sheet


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return files(tmp_path_factory.mktemp("labels"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory, given):
    """The rows of a sheet of 90 responses."""
    return sheet(tmp_path_factory.mktemp("sheet") / "sheet.csv", given, "--label_n", 90)


def test_every_stratum_is_drawn_and_the_weights_give_back_every_response(rows):
    assert len(rows) == 90 and Counter(row["metric"] for row in rows) == {"asr": 30, "rr": 30, "sarr": 30}
    for metric, every in (("asr", 12 * 12 - 1), ("rr", 12 * 12 - 1), ("sarr", 12 * 4)):
        of = [row for row in rows if row["metric"] == metric]
        assert sum(float(row["weight"]) for row in of) == pytest.approx(every, rel=1e-5)
        strata, drawn = {row["stratum"]: int(row["size"]) for row in of}, Counter(row["stratum"] for row in of)
        assert sum(strata.values()) == every and len(strata) == 6  # two verdicts, three categories
        weights = [int(row["size"]) / drawn[row["stratum"]] for row in of]
        assert [float(row["weight"]) for row in of] == pytest.approx(weights, rel=1e-5)
    assert len({(row["metric"], row["record"], row["place"], row["field"]) for row in rows}) == 90
    assert {row["field"] for row in rows if row["metric"] == "sarr"} == {"sd_response"}
    assert not any(row["response"].isspace() for row in rows)
    columns = "metric category question response choices label record place field on stratum size weight"
    assert list(rows[0]) == columns.split() and {row["label"] for row in rows} == {""}
    choices = {"asr": "unsafe / safe", "rr": "refuse / normal", "sarr": "normal / refuse"}
    assert all(row["choices"] == f"{choices[row['metric']]} / unclear" for row in rows)
    refusals = [row["response"].startswith("I'm sorry") for row in rows if row["metric"] == "rr"]
    assert set(refusals[:10]) == set(refusals[-10:]) == {True, False}, "nor does the order tell a verdict"


def test_the_seed_decides_and_a_sheet_is_not_replaced(tmp_path, given, rows):
    path = tmp_path / "sheet.csv"
    assert sheet(path, given, "--label_n", 90) == rows and path.read_bytes().startswith(b"\xef\xbb\xbfmetric,")
    run = run_eval(*given, "--label_sheet", path)
    assert run.returncode == 2 and "sheet.csv: exists and may hold labels; --overwrite replaces it" in run.stderr
    more = ("--overwrite", "--label_metrics", "asr,sarr", "--label_n", 60, "--label_seed", 1)
    other = sheet(path, given, *more)
    assert Counter(row["metric"] for row in other) == {"asr": 30, "sarr": 30} and not all(row in rows for row in other)


def test_a_spreadsheet_finds_no_formula_and_a_reader_every_sign(tmp_path, given):
    rows = sheet(tmp_path / "sheet.csv", given, "--label_n", 1000)  # all there are
    said = {row["response"] for row in rows}
    assert f"'{FORMULA}" in said and FORMULA not in said and NASTY in said and len(rows) == 2 * 143 + 48
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert {row["on"][0] for row in rows} == {"t"} and NASTY not in (tmp_path / "sheet.html").read_text()


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_saves_is_read(tmp_path, rows, delimiter):
    long = rows[0] | {"response": "word " * 30000}  # longer than the default limit of Python's reader
    labels = read_labels(fill_in(tmp_path / "l.csv", [long, *rows[1:]], lambda row: nth(0)(row).upper(), delimiter))
    values = {key[0]: label.value for key, label in labels.items()}
    assert len(labels) == 90 and values == {"asr": 1, "rr": 1, "sarr": 0}
    (key, label), row = next(iter(labels.items())), rows[0]
    assert key == (row["metric"], int(row["record"]), int(row["place"]), row["field"])
    assert label == (2, values[row["metric"]], row["on"], row["stratum"], int(row["size"]))


@pytest.mark.parametrize(
    "change, says",
    read_beside(__file__, "cases.yaml")["labels"],
)
def test_labels_that_cannot_be_used_are_refused_by_line_and_column(tmp_path, given, rows, change, says):
    first = rows[0] | {"label": nth(0)(rows[0])} | (change if isinstance(change, dict) else {})
    fill_in(tmp_path / "labels.csv", [first, rows[1] if change else first])
    if isinstance(change, str):
        (tmp_path / "labels.csv").write_text(change)
    run = run_eval(*given, "--agree", tmp_path / "labels.csv", "--summary", tmp_path / "s.json")
    assert run.returncode == 2 and "labels.csv: " in run.stderr and says in run.stderr
    assert run.stderr.count("\n") == 1 and not (tmp_path / "s.json").exists()
