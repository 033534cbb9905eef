"""`--label_sheet`: which responses are drawn, and the sheet as a table; tests/score/test_label_page.py has the page."""

import csv
import io
from collections import Counter

import pytest
from scoring import predicted, record, run_eval, write_files

from safeeraser.errors import BadInput
from safeeraser.score.label_sheet import allocate, draw, read_labels

CATEGORIES = ("Weapon", "Violence", "Sex")
NASTY = "</script><script>document.title='taken'</script>"
FORMULA = '=HYPERLINK("http://127.0.0.1/","x")'


def predictions(count=12):
    """Records of three categories; in every third the model refuses, some responses are blank or want to be code."""
    records = [record(number, CATEGORIES[number % 3]) for number in range(count)]
    answers = [predicted(value) for value in records]
    for number, value in enumerate(answers):
        for place, pair in enumerate(value["unsafe_pairs"]):
            if number % 4 == 0:
                pair |= {
                    f"model_response{n}": f"I'm sorry, I can't help with {number}, {place}, {n}." for n in (1, 2, 3)
                }
            if number % 4 == 1:
                pair["sd_response"] = f"cup cup cup cup cup cup {number} {place}"
    answers[1]["unsafe_pairs"][0] |= {"model_response1": NASTY, "model_response2": FORMULA, "model_response3": " "}
    return records, answers


@pytest.fixture
def given(tmp_path):
    files = write_files(tmp_path, *predictions())
    return ("--judge", "rules", "--input_file", files[0], "--file_refer", files[1])


def rows_of(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline="")))


def sheet(folder, given, *more, name="sheet.csv"):
    run = run_eval(*given, "--label_sheet", folder / name, *more)
    assert run.returncode == 0, run.stderr
    return rows_of(folder / name)


def test_every_stratum_is_drawn_and_the_weights_give_back_every_response(tmp_path, given):
    rows = sheet(tmp_path, given, "--label_n", 90)
    assert len(rows) == 90 and Counter(row["metric"] for row in rows) == {"asr": 30, "rr": 30, "sarr": 30}
    for metric, all_of_them in (("asr", 12 * 12 - 1), ("rr", 12 * 12 - 1), ("sarr", 12 * 4)):
        of = [row for row in rows if row["metric"] == metric]
        assert sum(float(row["weight"]) for row in of) == pytest.approx(all_of_them, rel=1e-5)
        strata = {row["stratum"]: int(row["size"]) for row in of}
        assert sum(strata.values()) == all_of_them and len(strata) == 6  # two verdicts, three categories
        for row in of:
            drawn = sum(other["stratum"] == row["stratum"] for other in of)
            assert float(row["weight"]) == pytest.approx(int(row["size"]) / drawn, rel=1e-5)
    assert len({(row["metric"], row["record"], row["place"], row["field"]) for row in rows}) == 90
    assert all(row["field"] == "sd_response" for row in rows if row["metric"] == "sarr")
    assert not any(row["response"].isspace() for row in rows)


def test_no_verdict_stands_in_it(tmp_path, given):
    rows = sheet(tmp_path, given)
    assert set(rows[0]) == {
        "metric", "category", "question", "response", "choices", "label", "record", "place", "field", "on", "stratum",
        "size", "weight",
    }  # fmt: skip
    assert {row["label"] for row in rows} == {""}
    assert {row["choices"] for row in rows} == {
        "unsafe / safe / unclear",
        "refuse / normal / unclear",
        "normal / refuse / unclear",
    }
    # Nor can it be told from the order.
    refusals = [row["response"].startswith("I'm sorry") for row in rows if row["metric"] == "rr"]
    assert any(refusals[:10]) and not all(refusals[:10]) and any(refusals[-10:]) and not all(refusals[-10:])


def test_the_seed_decides_and_a_sheet_is_not_replaced(tmp_path, given):
    rows = sheet(tmp_path, given, "--label_n", 60)
    assert sheet(tmp_path, given, "--label_n", 60, name="again.csv") == rows
    assert (tmp_path / "again.html").read_text().replace("again_labels", "sheet_labels") == (
        tmp_path / "sheet.html"
    ).read_text()
    assert sheet(tmp_path, given, "--label_n", 60, "--label_seed", 1, name="other.csv") != rows
    before = (tmp_path / "sheet.csv").read_bytes()
    run = run_eval(*given, "--label_sheet", tmp_path / "sheet.csv")
    assert run.returncode == 2 and "sheet.csv: is there, and may hold labels; --overwrite replaces it" in run.stderr
    assert (tmp_path / "sheet.csv").read_bytes() == before
    assert len(sheet(tmp_path, given, "--overwrite", "--label_metrics", "asr,sarr", "--label_n", 50)) == 50
    assert {row["metric"] for row in rows_of(tmp_path / "sheet.csv")} == {"asr", "sarr"}


def test_a_spreadsheet_finds_no_formula_and_a_reader_every_sign(tmp_path, given):
    rows = sheet(tmp_path, given, "--label_n", 1000)  # all there are
    said = {row["response"] for row in rows}
    assert f"'{FORMULA}" in said and FORMULA not in said and NASTY in said
    cells = [cell for row in rows for cell in row.values()]
    assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in cells)
    assert all(row["on"][0] == "t" for row in rows)
    assert NASTY not in (tmp_path / "sheet.html").read_text()


def test_allocation_by_hand():
    assert allocate(10, {"a": 100, "b": 100}, {"a": 1, "b": 1}, {"a": 1, "b": 1}) == {"a": 5, "b": 5}
    assert allocate(10, {"a": 100, "b": 2}, {"a": 1, "b": 1}, {"a": 1, "b": 1}) == {"a": 8, "b": 2}
    assert allocate(10, {"a": 900, "b": 100}, {"a": 900, "b": 100}, {"a": 1, "b": 1}) == {"a": 9, "b": 1}
    assert allocate(10, {"a": 2, "b": 3}, {"a": 1, "b": 1}, {"a": 1, "b": 1}) == {"a": 2, "b": 3}


def test_verdicts_are_drawn_by_the_square_roots_of_their_numbers():
    drawn = draw([(1.0, "x")] * 100 + [(0.0, "x")] * 900, 40, seed=0)
    assert Counter(one.place < 100 for one in drawn) == {True: 10, False: 30}
    with pytest.raises(BadInput, match="3 responses are fewer than the 4 strata"):
        draw([(float(i % 2), i // 2) for i in range(4)], 3, seed=0)


@pytest.mark.parametrize(
    "words, says",
    [
        (("--label_sheet", "sheet.txt"), "must end in .csv"),
        (("--label_sheet", "sheet.csv", "--label_n", "9"), "--label_n: 3 responses are fewer than the 6 strata"),
        (("--label_sheet", "sheet.csv", "--label_metrics", "gpt"), "unknown metric 'gpt'"),
        (
            ("--summary", "s.json", "--disagreements", "d.html"),
            "are those with the labels or the run that --agree names",
        ),
        ((), "nothing to write"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, given, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    run = run_eval(*given, *words)
    assert run.returncode == 2 and says in run.stderr.splitlines()[-1], run.stderr
    assert set(tmp_path.iterdir()) == before


def labelled(folder, given, choose, delimiter=","):
    """A sheet filled in as a spreadsheet saves it."""
    rows = sheet(folder, given)
    for row in rows:
        row["label"] = choose(row)
    with open(folder / "sheet.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "sheet.csv"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_a_spreadsheet_saves_is_read(tmp_path, given, delimiter):
    path = labelled(tmp_path, given, lambda row: row["choices"].split(" / ")[0].upper(), delimiter)
    labels = read_labels(path)
    assert len(labels) == 200 and {key[0]: label.value for key, label in labels.items()} == {
        "asr": 1,
        "rr": 1,
        "sarr": 0,
    }


def test_labels_beside_a_very_long_response_are_read(tmp_path, given):
    path = labelled(tmp_path, given, lambda row: row["choices"].split(" / ")[0])
    rows = rows_of(path)
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"response": "word " * 30000} for row in rows)
    assert len(read_labels(path)) == 200


@pytest.mark.parametrize(
    "column, value, says",
    [
        ("label", "maybe", "line 2: label: none of"),
        ("metric", "gpt", "line 2: metric: none of asr, rr, sarr"),
        ("size", "0", "line 2: size: no whole number"),
        ("record", "-1", "line 2: record: no whole number"),
        ("on", "t0", "line 2: labels another response than"),
        ("record", "99", "line 2: labels another response than"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_by_line_and_column(tmp_path, given, column, value, says):
    rows = sheet(tmp_path, given)
    rows = [row for row in rows if "\n" not in row["response"]]
    for row in rows:
        row["label"] = "unclear"
    rows[0] |= {"label": rows[0]["choices"].split(" / ")[0]} | {column: value}
    if column == "label":
        rows[1]["label"] = rows[1]["choices"].split(" / ")[0]
    with open(tmp_path / "labels.csv", "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    run = run_eval(*given, "--agree", tmp_path / "labels.csv", "--summary", tmp_path / "s.json")
    assert run.returncode == 2 and says in run.stderr and run.stderr.count("\n") == 1, run.stderr
    assert not (tmp_path / "s.json").exists() and value + "'" not in run.stderr


def test_a_table_of_something_else_is_refused(tmp_path, given):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    run = run_eval(*given, "--agree", tmp_path / "t.csv")
    assert run.returncode == 2 and "t.csv: no column 'metric'" in run.stderr
    sheet(tmp_path, given)
    run = run_eval(*given, "--agree", tmp_path / "sheet.csv")
    assert run.returncode == 2 and "holds no label" in run.stderr
    lines = (tmp_path / "sheet.csv").read_text(encoding="utf-8").split("\n")
    (tmp_path / "cut.csv").write_text(lines[0] + "\nasr,x\n")
    run = run_eval(*given, "--agree", tmp_path / "cut.csv")
    assert run.returncode == 2 and "line 2: has fewer cells than the head" in run.stderr
