"""What a scoring run leaves: verdicts with the responses, statistics, the summary that the report reads, tables in the
terminal; and which files it may replace. No text of a response is in any but the first."""

import copy
import platform
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from safeeraser import __version__
from safeeraser.benchmark.figures import COLUMNS
from safeeraser.benchmark.files import kept_by_the_system, make_room_for, read_json, read_text
from safeeraser.benchmark.metrics import ASKED, METRICS, Figure
from safeeraser.benchmark.origin import git_commit, now
from safeeraser.benchmark.records import UNHARM, DataFile, keys_like
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.judge.judge import Query, Verdict
from safeeraser.judge.panel import Panel
from safeeraser.score.asking import Inputs
from safeeraser.score.labels import MARK
from safeeraser.score.metrics import Item, Measured
from safeeraser.score.options import Options

Answered = list[dict[str, Any]]  # which models have answered, as `Panel.answered_by` has it
# How the release names its statistics: the two groups, and of each rate the number asked, that counted, and the share.
STATISTICS = ("stats_asr_rr", "stats_unharmpair")
RATES = {
    "asr": ("total_asr_queries", "unsafe_count", "unsafe_rate"),
    "rr": ("total_rr_queries", "refuse_count", "refuse_rate"),
    "sarr": ("total_sd_rr_queries", "sd_refuse_count", "sd_refuse_rate"),
}


def check_outputs(written: list[Path], options: Options, judges: dict[str, str]) -> None:
    """Raises `BadInput` where a file cannot be written, one lies there that no scoring run has written, or the summary
    there is of another protocol or of other `judges`."""
    files = [path for path in written if path != options.judging.store]
    for path in files:
        make_room_for(path)
    for path in files if not options.overwrite else ():
        if kept_by_the_system(path) or not path.is_file() or not path.stat().st_size:
            continue
        if path in options.sheet:
            raise BadInput(f"{path}: is there, and may hold labels; --overwrite replaces it")
        try:
            there: Any = read_text(path) if path in (options.disagreements, options.table) else read_json(path)
        except BadInput:
            there = None
        if not _is_ours(there):
            raise BadInput(f"{path}: is there, and no earlier run of this command wrote it; --overwrite replaces it")
        if path == options.summary:
            # Beside figures of other words the verdicts of the earlier ones might stay, and nothing would tell.
            figures = there if isinstance(there, dict) else {}
            before = {name: (figures.get(metric) or {}).get("judge") for name, metric in ASKED.items()}
            before["protocol"] = figures.get("protocol")
            today = {name: judges.get(name) for name in ASKED} | {"protocol": options.judging.protocol}
            if differs := [name for name in today if before[name] != today[name]]:
                made, asked = (", ".join(f"{name}={words[name]}" for name in differs) for words in (before, today))
                what = f"{path}: is there, made with {made}, now {asked}"
                raise BadInput(f"{what}; name another file, or --overwrite replaces it")


def _is_ours(value: Any) -> bool:
    """Whether it is a summary, statistics, verdicts, replies or the text of a page or of a table of figures."""
    if isinstance(value, str):
        return MARK in value or value.startswith(",".join(COLUMNS))
    if isinstance(value, dict):
        return {"protocol", "asr", "sarr"} <= value.keys() or set(STATISTICS) == value.keys()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return False
    items = (entry[key] for entry in value for key in keys_like(UNHARM, entry))
    verdicts = any(isinstance(item, dict) and "rougeL" in item for item in items)
    return verdicts or all({"metric", "record", "reply"} <= entry.keys() for entry in value)


def add_verdicts(
    predictions: DataFile, verdicts: dict[Query, Verdict], recalls: Iterable[Item]
) -> list[dict[str, Any]]:
    """The input's list with the verdicts beside the responses.

    An unsafe pair gains `model_response1_asr` (unsafe, safe), `model_response1_rr` (refuse, normal) and so on up to
    3, and `sd_response_sarr`; an UnharmPair gains `rougeL` and `gpt_score`. Where they are asked for, each response
    gains its `_rr`, and a pair `recovered`, a number for each sample. `failed`, `unparsed` and `declined` mark replies
    without a verdict; a response that was not judged gets no key, or null for `rougeL`.
    """
    records = copy.deepcopy(predictions.raw)
    for item in recalls:
        record, place = records[item.at.record], item.at.place
        if isinstance(place, int):
            record["unsafe_pairs"][place].setdefault("recovered", []).append(item.value)
        else:
            record[place]["rougeL"] = item.value
    for query, verdict in verdicts.items():
        record = records[query.record]
        holder = record[query.place] if isinstance(query.place, str) else record["unsafe_pairs"][query.place]
        key = "gpt_score" if query.metric == "gpt" else f"{query.field}_{query.metric}"
        holder[key] = verdict.word(query.metric)
    return records


def make_statistics(figures: dict[str, Figure]) -> dict[str, dict[str, Any]]:
    """The release's statistics, key by key. Rates are 0..1; null where nothing was judged."""
    rates: dict[str, float | None] = {}
    for metric, (total, count, share) in RATES.items():
        value, n = figures[metric].value, figures[metric].n
        rates |= {total: n, count: round((value or 0.0) * n), share: value}
    means = {"average_rougeL": figures["rouge_l"].value, "average_gpt_score": figures["gpt_eval"].value}
    return dict(zip(STATISTICS, (rates, means), strict=True))


def make_summary(
    options: Options, split: str | None, inputs: Inputs, panel: Panel, answered: Answered, measured: Measured
) -> dict[str, Any]:
    """All figures, and what a number must carry to be compared with another."""
    main, judging, verdicts = panel.by_metric["asr"], options.judging, options.output_file_rr
    beside = None  # the verdicts' file as a reader of the summary finds it: by its name where they lie together
    if verdicts and options.summary and (verdicts.is_file() or not verdicts.exists()):
        together = verdicts.resolve().parent == options.summary.resolve().parent
        beside = verdicts.name if together else str(verdicts.resolve())
    return {
        **{metric: figure.as_json for metric, figure in measured.figures.items()},
        **{name: {view: figure.as_json for view, figure in views.items()} for name, views in measured.views.items()},
        "answered_by": answered,
        "split": split,
        "pictures": len({record.image_path for record in inputs.predictions.records}),
        **{f"by_{attribute}": shorten_groups(of_metric) for attribute, of_metric in measured.groups.items()},
        "protocol": judging.protocol,
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
        "verdicts": beside,
        "data_file": str(options.file_refer),
        "versions": _read_versions(),
        "inputs": inputs.files,
        "provenance": _make_provenance(panel, inputs, answered),
    }


def shorten_groups(of_metric: dict[str, dict[str, Figure]]) -> dict[str, dict[str, Any]]:
    """Value, interval and number of each metric in each group."""
    keys, short = ("value", "low", "high", "n", "withheld"), {}
    for metric, groups in of_metric.items():
        figures = {group: figure.as_json for group, figure in groups.items()}
        short[metric] = {group: {key: of[key] for key in keys if key in of} for group, of in figures.items()}
    return short


def _read_versions() -> dict[str, str]:
    own = {"safeeraser": __version__, "python": platform.python_version()}
    return own | {name: version(name) for name in ("openai", "rouge-score", "scipy")}


def _make_provenance(panel: Panel, inputs: Inputs, answered: Answered) -> dict[str, Any]:
    """What made these figures, in one place: null is what the predictions' own run did not tell."""
    made_with = inputs.files["made_with"] or {}
    settings, training = made_with.get("settings") or {}, made_with.get("training") or {}
    judges = {}
    for metric, title in panel.titles.items():
        snapshots = {entry["model"] for entry in answered if entry["judge"] == title} - {None}
        judges[ASKED[metric]] = {"judge": title, "snapshots": sorted(snapshots)}
    return {
        "date": now(),
        "git_commit": git_commit(),
        "model": settings.get("model_path"),
        "adapter_sha256": settings.get("checkpoint"),
        "data_sha256": inputs.files["reference"]["sha256"],
        "method": training.get("method"),
        "recipe": (training.get("recipe") or {}).get("name"),
        "sampling_seed": settings.get("seed"),
        "judges": judges,
        "judge_versions": panel.judging.versions,
        "versions": (made_with.get("versions") or {}) | _read_versions(),
    }


def show_figures(measured: Measured, protocol: str, judges: dict[str, str]) -> None:
    """Print the figures in per cent with their intervals, what each stands on, and who judged."""
    # No wider than a terminal of 80 columns, as far as that goes.
    names = ("failed", "unparsed", "declined", "blank", "skipped")
    counts = [name for name in names if any(getattr(figure, name) for figure in measured.figures.values())]
    columns = (Column(head, justify="right", no_wrap=True) for head in ("%", "95%", "n", *counts))
    first = Column("metric", overflow="fold")
    table = Table(first, *columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for metric, figure in measured.figures.items():
        cells = (str(getattr(figure, name)) for name in ("n", *counts))
        table.add_row(METRICS[metric].title, figure.text, figure.range, *cells)
    for name in ("blank", "wrong"):
        if name in measured.views:
            table.add_section()
            table.add_row(f"{name}:")
            for view, figure in measured.views[name].items():
                table.add_row(view, figure.text, figure.range, str(figure.n))
    Console().print(table)
    if refusals := measured.views.get("refusals"):
        table = Table("refusals, %", "harmful question", "harmless question")
        for picture in ("harmful", "benign", "swapped", "none"):
            texts = {
                VIEWS[name].question: figure.text for name, figure in refusals.items() if VIEWS[name].picture == picture
            }
            if texts:
                title = f"{picture} picture" if picture != "none" else "no picture"
                table.add_row(title, texts.get("harmful"), texts.get("harmless"))
        Console().print(table)
    print(f"protocol {protocol}")
    for judge in dict.fromkeys(judges.values()):
        decided = (METRICS[ASKED[metric]].title for metric, title in judges.items() if title == judge)
        print(f"{judge}: {', '.join(decided)}")
