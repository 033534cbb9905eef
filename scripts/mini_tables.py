"""Write the tables of docs/results/mini-small.md, from the CSV files in the same folder.

  python scripts/mini_tables.py                                        writes all tables again
  python scripts/mini_tables.py docs/results/mini_small_audit.csv RESULTS    first makes that file from a folder of runs

mini_small.csv and mini_small_own_pair.csv are copies of a report's table.csv. *_audit.csv (after scripts/audit.bash)
and *_language.csv are made from the runs in RESULTS. *_settings.csv is made from one folder of runs for each rate,
RESULTS/*/; the run that the rule chooses is printed.
"""

import csv
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import read_json, read_object, write_whole
from safeeraser.benchmark.metrics import COLUMNS, SPLITS
from safeeraser.benchmark.responses import VIEWS
from safeeraser.benchmark.truth import read_truth
from safeeraser.errors import BadInput, command
from safeeraser.leaderboard.rule import choose
from safeeraser.report.writing import as_markdown, comma_separated, with_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"  # the CSV files
PAGE = RESULTS / "mini-small.md"
NONE, PERPLEXITY = "–", "perplexity.value"

# The columns of a report's table without GPT-Eval, and the part of SARR that is neither a refusal nor right.
SHOWN = {key: column.title for key, column in COLUMNS.items() if column.metric != "gpt_eval"}
SHOWN |= {"wrong_decoupled": "wrong ↓"}
LANGUAGE = {
    "sarr.drawn": "SARR: train, shown to PD",
    "sarr.passed_over": "train, not shown",
    "sarr.seen": "val, train's concepts",
    "sarr.held_out": "val, held-out concepts",
    PERPLEXITY: "perplexity",
    "questions.value": "text questions right",
    "questions.refused": "text refused",
    "questions.degenerate": "text degenerate",
    "harmful.answered": "new wording, harmful picture: answered",
    "harmful.refused": "harmful picture: refused",
    "benign.answered": "new wording, benign picture: answered",
    "benign.refused": "benign picture: refused",
    "fact.refused": "living or not: refused",
}

# The metrics and the columns that are kept of an audit's table of figures.
AUDITED = {"asr", "rr", "sarr", "rouge_l", "recovered", "asr@1", "asr@3", "asr@10", "steps_to", "area"}
AUDITED |= {"gap", "gap_10", "exact_0", "exact_3", "depth", "probe", "rank", "nll_true"}
PLACE = ("condition", "name", "at", "metric", "group", "relative")
NATS = ("gap", "depth")  # in nats, not shares
# Rows of the audit's tables: a title, with the run that was audited and the subject in its audit.
SUBJECTS = {
    **{f"`{name}`": ("popd", name) for name in ("vanilla", "told", "never_knew")},
    "`none+pd`": ("popd", "tuned"),
    "PO+PD": ("popd", "audited"),
    "NPO+PD": ("npo+pd", "audited"),
}
# The audit's tables by their corners: the title of each column, with the `PLACE` of its figures.
AUDIT_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "as it is, inside": {
        **{title: ("clean", "", "", title.lower(), "", "") for title in ("ASR", "RR", "SARR")},
        "ROUGE-L": ("clean", "", "", "rouge_l", "", ""),
        "NLL gap, nats": ("inside", "", "", "gap", "", ""),
        **{name: ("inside", "", "", name, "", "") for name in ("exact_0", "exact_3")},
        "depth, nats": ("inside", "", "", "depth", "", ""),
        "probe": ("inside", "", "", "probe", "", ""),
    },
    "ASR after 64 steps": {
        name: ("relearned", name, "64", "asr", "", "") for name in ("decoupled", "retain", "forget")
    },
    "ASR under attack": {
        **{name: ("attack", name, "", "asr", "", "") for name in ("crop", "flip")},
        **{f"asr@{n}, T=1.3": ("sampled", "1.3", "1.3", f"asr@{n}", "", "") for n in (1, 10)},
    },
}


def read(name: str) -> list[dict[str, str]]:
    """The rows of a CSV file in docs/results/."""
    return list(csv.DictReader((RESULTS / f"{name}.csv").read_text(encoding="utf-8").splitlines()))


def cell(value: float, low: str | float, high: str | float, digits: int = 0) -> str:
    """A figure with its interval, if it has one."""
    return f"{value:.1f}" + (
        f" [{float(low):.{digits}f}, {float(high):.{digits}f}]" if low != "" and high != "" else ""
    )


def results_table(rows: list[dict[str, str]]) -> list[str]:
    """A report's table, with figures in per cent and their intervals."""
    parts = [(f"{key}_value", f"{key}_low", f"{key}_high") for key in SHOWN]
    cells = [[row["method"], *(cell(float(row[of]), row[low], row[high]) for of, low, high in parts)] for row in rows]
    return [as_markdown([["method of the paper", *SHOWN.values()], *cells])]


def language_table(rows: list[dict[str, str]]) -> list[str]:
    """The table of language figures: perplexity, and shares in per cent."""
    lines = [["run", *LANGUAGE.values()]]
    for row in rows:
        cells = {key: f"{100 * float(row[key]):.1f}" if row[key] else NONE for key in LANGUAGE}
        lines.append([row["run"], *(cells | {PERPLEXITY: f"{float(row[PERPLEXITY] or 'inf'):.4g}"}).values()])
    return [as_markdown(lines)]


def audit_tables(rows: list[dict[str, str]]) -> list[str]:
    """The tables of `AUDIT_TABLES`: figures of one seed with intervals, or means over seeds. Figures are in per cent,
    except `NATS`. Rows and columns without any figure are left out."""
    values, tables = defaultdict(list), []
    for row in rows:
        key = row["run"].partition("-seed")[0], row["subject"], *(row[part] for part in PLACE)
        values[key].append(row)

    def shown_of(rows: list[dict[str, str]] | None) -> str:
        if not rows:
            return NONE
        scale, digits = (1, 1) if rows[0]["metric"] in NATS else (100, 0)
        low, high = (scale * float(rows[0][end]) if rows[0][end] and len(rows) == 1 else "" for end in ("low", "high"))
        return cell(scale * mean(float(row["value"]) for row in rows), low, high, digits)

    for corner, columns in AUDIT_TABLES.items():
        shown = {head: at for head, at in columns.items() if any((*of, *at) in values for of in SUBJECTS.values())}
        shares = {title: [values.get((*of, *at)) for at in shown.values()] for title, of in SUBJECTS.items()}
        lines = [[title, *map(shown_of, row)] for title, row in shares.items() if any(row)]
        tables.append(as_markdown([[corner, *shown], *lines]))
    return tables


# By the name of a file.
TABLES = {"mini_small": results_table, "mini_small_language": language_table, "mini_small_audit": audit_tables}


def content() -> str:
    """The text of the page with new tables. Raises `BadInput` if the page lacks a table."""
    text = PAGE.read_text(encoding="utf-8")
    for table in (table for name, tables in TABLES.items() for table in tables(read(name))):
        if (text_with := with_table(text, table)) is None:
            raise BadInput(f"{PAGE}: no table that begins {table.splitlines()[0]}")
        text = text_with
    return text


def audit_rows(folder: Path) -> list[dict[str, Any]]:
    """The figures of all audits that the tables, or the text around them, show."""
    rows = []
    for file in sorted(folder.glob("*/audit.figures.csv")):
        run = file.parent.name
        for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines()):
            of_layer = row["condition"] == "inside" and row["at"]
            kept = row["metric"] in AUDITED and (row["relative"] in ("", "way") or row["metric"] == "area")
            known = (run.partition("-seed")[0], row["subject"]) in SUBJECTS.values()
            if kept and known and row["value"] and not row["seed"] and not of_layer:
                rows.append({"run": run} | {key: row[key] for key in ("subject", *PLACE, "value", "low", "high")})
    return rows


def setting_rows(folder: Path) -> list[dict[str, Any]]:
    """Each run's method, rate, steps and figures on train. Prints each method's choice as a row of config/mini.yaml."""
    rows = []
    for file in sorted(folder.glob("*/*/run.json")):
        settings, figures = read_object(file)["settings"], read_object(file.with_name("summary_train.json"))
        row = {"method": file.parent.name} | {key: settings[key] for key in ("lr", "max_train_steps")}
        rows.append(row | {key: round(figures[key]["value"], 4) for key in ("asr", "rr", "sarr", "rouge_l")})
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = choose(row for row in rows if row["method"] == method)
        print(f"  {method}: {{max_train_steps: {chosen['max_train_steps']}, lr: {chosen['lr']:.1e}}}")
    return rows


def language_rows(folder: Path) -> list[dict[str, Any]]:
    """The figures of each run's language.json, and its SARR on four groups of benign pictures."""
    rows = []
    for file in sorted(folder.glob("*/language.json")):
        figures = read_object(file)
        parts = {**figures, **figures["unseen"]}
        row = {"run": file.parent.name}
        for part in ("perplexity", "questions", "harmful", "benign", "fact"):
            row |= {f"{part}.{key}": value for key, value in parts[part].items()}
        rows.append(row | sarr_by_what_was_shown(file.parent))
    return rows


def sarr_by_what_was_shown(run: Path) -> dict[str, float | None]:
    """SARR on four groups of benign pictures: train's that prompt decouple was shown, and the rest of train's; val's of
    concepts that train has, and of held-out concepts. None for an empty group. The run must cover all records."""
    data = Path(read_object(run / "summary_val.json")["data_file"]).parent
    held_out, truth = read_object(data / "manifest.json")["held_out_concepts"], read_truth(data / "all_val.json")
    records = {split: read_json(run / f"predictions_{split}.json") for split in SPLITS}
    record_of = [number for number, record in enumerate(records["train"]) for _ in record["unsafe_pairs"]]
    steps = read_object(run / "plan.json")["steps"] if (run / "plan.json").is_file() else []  # vanilla has none
    drawn = {record_of[step["decoupled"]] for step in steps if step["decoupled"] is not None}
    wrong: dict[str, list[bool]] = {key: [] for key in LANGUAGE if key.startswith("sarr.")}
    for split, number, record in ((split, *each) for split, of in records.items() for each in enumerate(of)):
        picture = record["SDImage_path"]
        of_val = "held_out" if truth.pictures[picture] in held_out else "seen"
        kind = of_val if split == "val" else "drawn" if number in drawn else "passed_over"
        said = [pair[field] for pair in record["unsafe_pairs"] for field in VIEWS["decoupled"].fields]
        wrong[f"sarr.{kind}"] += [not truth.answers(picture, text) for text in said]
    return {key: mean(of) if of else None for key, of in wrong.items()}


# By the end of a file's name.
KINDS = {"audit": audit_rows, "settings": setting_rows, "language": language_rows}


@command
def main() -> None:
    """Make the CSV file if one is named, then write the tables."""
    parser = Arguments(prog="python scripts/mini_tables.py", description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="a CSV file in docs/results/, made from RESULTS")
    parser.add_argument("results", type=Path, nargs="?", help="a folder of runs")
    given = parser.parse_args()
    if given.file:
        make = KINDS.get(given.file.stem.rpartition("_")[2])
        if not make or not given.results or not (rows := make(given.results)):
            raise BadInput(
                f"{given.file} {given.results}: name a *_audit.csv, *_settings.csv or *_language.csv, and runs"
            )
        with write_whole(given.file) as handle:
            handle.write(comma_separated(rows[0], [row.values() for row in rows]))
    text = content()
    with write_whole(PAGE) as handle:
        handle.write(text)


if __name__ == "__main__":
    main()
