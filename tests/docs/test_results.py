"""Each figure in a table of docs/results/, and each interval in its text, is in a data file that the page names.

The tables of mini-small.md are made from CSV files, and the CSV files from runs. The steps and learning rates in
config/mini.yaml are those that the rule chooses.
"""

import csv
import re

import pytest
import yaml
from helpers import write_json

from safeeraser.benchmark.audits import Audit
from safeeraser.benchmark.figures import write_table
from safeeraser.benchmark.files import read_json
from safeeraser.leaderboard.plan import read_plan, settings_file
from safeeraser.unlearn.config.compose import from_keys

from .pages import ROOT, load, prose

SCRIPT = load("scripts/mini_tables.py")
RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
INTERVAL = re.compile(r"(-?[\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]*[a-zA-Z])")


def test_the_page_has_the_tables_of_its_files():
    assert SCRIPT.content() == SCRIPT.PAGE.read_text(encoding="utf-8")
    runs = {line["run"].partition("-seed")[0] for line in SCRIPT.read("mini_small_language")}
    assert len(runs) == len(SCRIPT.read("mini_small"))


def test_the_tutorial_names_the_folder_that_its_training_writes():
    composed = from_keys({"model_family": "llava-mini", "forget_loss": "gdpd"}, "mini")
    assert f" --checkpoint_path {composed.save_dir} " in (ROOT / "docs" / "tutorials" / "mini.md").read_text()


PLAN = read_plan()
CONTROLS = {"none": "po", "none+pd": "popd"}  # controls fine-tune alone, with the settings of another method
TABLES = yaml.safe_load((ROOT / "config" / "mini.yaml").read_text(encoding="utf-8"))["tables"]


def test_readers_see_how_steps_and_rate_were_chosen_for_the_small_model():
    # Each method was run at the same rates, and config/mini.yaml has the rate and the steps that the rule chooses.
    of = {}
    for row in SCRIPT.read("mini_small_settings"):
        of.setdefault(row["method"], []).append(row)
    assert of.keys() == TABLES["small"]["methods"].keys() - CONTROLS.keys()
    for method, its in of.items():
        chosen, used = SCRIPT.choose(its), TABLES["small"]["methods"][method]
        assert [float(row["lr"]) for row in its] == [5e-4, 1e-3]
        assert (used["lr"], used["max_train_steps"]) == (float(chosen["lr"]), int(chosen["max_train_steps"]))


def test_the_mini_benchmark_trains_with_the_settings_that_the_leaderboard_chose():
    rows = TABLES["tiny"]["methods"]
    used = {name: {"lr": row["lr"], "max_train_steps": row["max_train_steps"]} for name, row in rows.items()}
    chosen = {name: read_json(ROOT / settings_file(name))["chosen"] for name in PLAN.chosen}
    assert {name: used[name] for name in chosen} == chosen
    assert {name: used[name] for name in CONTROLS} == {name: chosen[of] for name, of in CONTROLS.items()}


def test_every_row_of_the_leaderboard_has_all_its_runs():
    cells = [cell.kept for group in PLAN.groups for cell in PLAN.cells(group)]
    assert not [str(file) for file in cells if not (ROOT / file).is_file()]
    assert len(cells) == len(list((ROOT / "docs" / "results" / "leaderboard" / "cells").glob("*/*.json")))


def test_what_was_measured_bears_what_controls_are_for():
    """Vanilla prefers the true answer to another, and a model that never knew it does so less."""
    rows = [row for row in SCRIPT.read("mini_small_audit") if (row["metric"], row["relative"]) == ("gap", "")]
    gaps = {row["subject"]: (float(row["low"]), float(row["high"])) for row in rows}
    assert 0 < gaps["never_knew"][0] < gaps["never_knew"][1] < gaps["vanilla"][0]


def test_the_files_are_made_from_runs(tmp_path, capsys):
    card = (ROOT / "tests" / "data" / "previous" / "popd" / "audit.json").read_text(encoding="utf-8")
    write_table(tmp_path / "popd" / "audit.figures.csv", audit := Audit.model_validate_json(card).rows())
    kept = {(row["subject"], row["condition"], row["name"], row["metric"]) for row in SCRIPT.audit_rows(tmp_path)}
    assert kept >= {(who, "clean", "", "asr") for who in ("audited", "vanilla", "told")}
    assert {metric for *_, metric in kept} == {row.metric for row in audit if row.value is not None} & SCRIPT.AUDITED
    for rate, sarr in ((1e-3, 0.2), (2e-3, 0.1)):
        run, figures = tmp_path / f"{rate:g}" / "po", {"asr": 0.01, "rr": 1.0, "sarr": sarr, "rouge_l": 0.9}
        write_json(run / "run.json", {"settings": {"lr": rate, "max_train_steps": 60}})
        write_json(run / "summary_train.json", {key: {"value": value} for key, value in figures.items()})
    assert [row["sarr"] for row in SCRIPT.setting_rows(tmp_path)] == [0.2, 0.1]
    assert capsys.readouterr().out == "  po: {max_train_steps: 60, lr: 2.0e-03}\n"


def holds(cells: list[str], shown: tuple[str, ...]) -> bool:
    """Whether a line has the numbers `shown` in sequence, as shares or in per cent, within their rounding."""
    numbers, parts = [float(cell) for cell in cells if NUMBER.fullmatch(cell)], [each.partition("e") for each in shown]
    off = [0.51 * 10 ** (int(power or 0) - len(digits.partition(".")[2])) for digits, _, power in parts]
    runs = [numbers[start : start + len(shown)] for start in range(len(numbers) - len(shown) + 1)]
    near = [zip(run, shown, off, strict=True) for run in runs]
    return any(all(min(abs(n - float(one)), abs(100 * n - float(one))) <= by for n, one, by in run) for run in near)


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_each_figure_is_in_a_data_file(page):
    """A row's figures are in lines with its title, if any line has it. A test above checks audit tables."""
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"\]\((\w+\.csv)\)", text))
    lines = [line for name in names for line in csv.reader((page.parent / name).open(encoding="utf-8"))]
    shown = [("its text", INTERVAL.findall(prose(page)), lines)]
    text = re.sub(rf"^\| (?:{'|'.join(SCRIPT.AUDIT_TABLES)}) \|.*\n(?:\|.*\n)+", "", text, flags=re.MULTILINE)
    text = re.sub(r"^.*\n\|[ |-]+\|$", "", text, flags=re.MULTILINE)  # without table heads
    for title, cells in re.findall(r"^\| ?(.*?) ?\|(.*)\|$", text, re.MULTILINE):
        near = [line for line in lines if title.strip("`").lower() in [cell.lower() for cell in line]] or lines
        numbers = [(each,) for each in NUMBER.findall(INTERVAL.sub("", cells))]
        shown.append((title, INTERVAL.findall(cells) + numbers, near))
    for title, each, near in ((title, each, near) for title, figures, near in shown for each in figures):
        assert any(holds(line, each) for line in near), (title, each)
