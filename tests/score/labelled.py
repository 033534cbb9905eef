"""Helpers of the tests of labels: predictions to label, the sheet of a run, and filling in the sheet."""

import csv

from scoring import predicted, record, run_eval, write_files

NASTY = "</script><script>document.title='taken'</script>"
FORMULA = '=HYPERLINK("http://127.0.0.1/","x")'


def files(folder, count=12):
    """Options for records of three categories: every fourth refuses, some responses are degenerate, blank or code."""
    records = [record(number, ("Weapon", "Violence", "Sex")[number % 3]) for number in range(count)]
    values = [predicted(value) for value in records]
    for number, value in enumerate(values):
        for place, pair in enumerate(value["unsafe_pairs"]):
            if number % 4 == 0:
                refusal = f"I'm sorry, I can't help with {number}, {place}"
                pair |= {f"model_response{n}": f"{refusal}, {n}." for n in (1, 2, 3)}
            if number % 4 == 1:
                pair["sd_response"] = f"cup cup cup cup cup cup {number} {place}"
    values[1]["unsafe_pairs"][0] |= {"model_response1": NASTY, "model_response2": FORMULA, "model_response3": " "}
    paths = write_files(folder, records, values)
    return ("--judge", "rules", "--input_file", paths[0], "--file_refer", paths[1])


def rows_of(path):
    """The rows of a table."""
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(keepends=True)))


def sheet(path, given, *more):
    """The rows of the sheet that a run draws."""
    run = run_eval(*given, "--label_sheet", path, *more)
    assert run.returncode == 0, run.stderr
    return rows_of(path)


def fill_in(path, rows, choose=lambda row: row["label"], delimiter=","):
    """Write the rows with their labels, as a spreadsheet saves them."""
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(row | {"label": choose(row)} for row in rows)
    return path


def nth(n):
    """A function that chooses the word at index `n` of a row's choices."""
    return lambda row: row["choices"].split(" / ")[n]
