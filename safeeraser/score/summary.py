"""What a scoring run found, as the report reads it and as the terminal shows it. No text of a response is in it."""

import platform
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from safeeraser import __version__
from safeeraser.benchmark.metrics import ASKED, METRICS, SCORED, Figure
from safeeraser.benchmark.origin import git_commit, now
from safeeraser.benchmark.records import DataFile
from safeeraser.benchmark.responses import VIEWS
from safeeraser.judge.panel import Panel
from safeeraser.score.asking import Asked
from safeeraser.score.metrics import Found, Item, figures
from safeeraser.score.options import Options


def summary(options: Options, split: str | None, panel: Panel, asked: Asked, found: Found) -> dict[str, Any]:
    """All figures, and what a number must carry to be compared with another."""
    main, judging = panel.by_metric["asr"], options.judging
    predictions, items = asked.predictions, found.items
    return {
        **{metric: one.as_json for metric, one in found.figures.items()},
        **{name: {view: one.as_json for view, one in its.items()} for name, its in found.views.items()},
        "answered_by": found.answered_by,
        "split": split,
        "pictures": len({record.image_path for record in predictions.records}),
        "by_category": _by("category", predictions, items, options),
        "by_keyword": _by("keyword", predictions, items, options),
        "protocol": options.judging.protocol,
        "judge": main.name,
        "judge_model": main.model,
        **judging.versions,
        "asked_with": {
            "extra_body": judging.extra_body,
            "max_tokens": judging.max_tokens,
            "not_taken": {judge.title: sorted(judge.refused) for judge in panel.served if judge.refused},
        },
        "max_failed": options.max_failed,
        "max_blank": options.max_blank,
        "category": options.category,
        "verdicts": _beside(options.output_file_rr, options.summary),
        "data_file": str(options.file_refer),
        "versions": _versions(),
        "inputs": asked.inputs,
        "provenance": _provenance(panel, asked, found),
    }


def show(found: Found, panel: Panel) -> None:
    """Print the figures in per cent with their intervals, what each stands on, and who judged."""
    # No wider than a terminal of 80 columns, as far as that goes.
    names = ("failed", "unparsed", "declined", "blank", "skipped")
    counts = [name for name in names if any(getattr(one, name) for one in found.figures.values())]
    columns = (Column(head, justify="right", no_wrap=True) for head in ("%", "95%", "n", *counts))
    first = Column("metric", overflow="fold")
    table = Table(first, *columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for metric, one in found.figures.items():
        told = (str(getattr(one, name)) for name in ("n", *counts))
        table.add_row(METRICS[metric].title, one.text, one.range, *told)
    for name in ("blank", "wrong"):
        if name in found.views:
            table.add_section()
            table.add_row(f"{name}:")
            for view, one in found.views[name].items():
                table.add_row(view, one.text, one.range, str(one.n))
    Console().print(table)
    if "refusals" in found.views:
        _show_refusals(found.views["refusals"])
    print(f"protocol {panel.judging.protocol}")
    for judge in dict.fromkeys(panel.titles.values()):
        decided = (METRICS[ASKED[metric]].title for metric, title in panel.titles.items() if title == judge)
        print(f"{judge}: {', '.join(decided)}")


def _versions() -> dict[str, str]:
    own = {"safeeraser": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in ("openai", "rouge-score", "scipy")}


def _provenance(panel: Panel, asked: Asked, found: Found) -> dict[str, Any]:
    """What made these figures, in one place: null is what the predictions' own run did not tell."""
    made_with = asked.inputs["made_with"] or {}
    settings, training = made_with.get("settings") or {}, made_with.get("training") or {}
    judges = {}
    for metric, title in panel.titles.items():
        snapshots = {entry["model"] for entry in found.answered_by if entry["judge"] == title} - {None}
        judges[ASKED[metric]] = {"judge": title, "snapshots": sorted(snapshots)}
    return {
        "date": now(),
        "git_commit": git_commit(),
        "model": settings.get("model_path"),
        "adapter_sha256": settings.get("checkpoint"),
        "data_sha256": asked.inputs["reference"]["sha256"],
        "method": training.get("method"),
        "recipe": (training.get("recipe") or {}).get("name"),
        "sampling_seed": settings.get("seed"),
        "judges": judges,
        "judge_versions": panel.judging.versions,
        "versions": (made_with.get("versions") or {}) | _versions(),
    }


def _show_refusals(refusals: dict[str, Figure]) -> None:
    """Print the shares of refusals by picture and question, in per cent."""
    table = Table("refusals, %", "harmful question", "harmless question")
    for picture in ("harmful", "benign", "swapped", "none"):
        said = {VIEWS[name].question: one.text for name, one in refusals.items() if VIEWS[name].picture == picture}
        if said:
            title = f"{picture} picture" if picture != "none" else "no picture"
            table.add_row(title, said.get("harmful"), said.get("harmless"))
    Console().print(table)


def _by(attribute: str, predictions: DataFile, items: list[Item], options: Options) -> dict[str, dict[str, Any]]:
    """Value, interval and number of each metric for each value of a record's attribute."""
    groups = defaultdict(list)
    for item in items:
        groups[getattr(predictions.records[item.record], attribute)].append(item)
    table: dict[str, dict[str, Any]] = {metric: {} for metric in SCORED}
    for group in sorted(groups.keys() - {""}):
        for metric, one in figures(groups[group], options, {}).items():
            told = one.as_json
            table[metric][group] = {key: told[key] for key in ("value", "low", "high", "n", "withheld") if key in told}
    return table


def _beside(path: Path | None, summary: Path | None) -> str | None:
    """The verdicts' file as a reader of the summary finds it: by its name where they lie together; None without one."""
    if not path or not summary or (path.exists() and not path.is_file()):
        return None
    return path.name if path.resolve().parent == summary.resolve().parent else str(path.resolve())
