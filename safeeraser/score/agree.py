"""A second opinion on the responses of a run, of people or of another judge: how far and where its judge agrees."""

import hashlib
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from safeeraser.benchmark.files import read_text, sha256, write_whole
from safeeraser.benchmark.judged import value_of, words
from safeeraser.benchmark.metrics import ASKED, METRICS, Figure
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.errors import BadInput
from safeeraser.judge.judge import Query, Verdict
from safeeraser.judge.offline import response_hash
from safeeraser.score.agreement import FUNCTIONS, Labelled, agreement, table
from safeeraser.score.asking import Asked, pair_records
from safeeraser.score.compare import verdicts_of
from safeeraser.score.label_sheet import LABELLED, is_counted, read_labels
from safeeraser.score.metrics import cluster_of
from safeeraser.score.options import Options
from safeeraser.score.pages import render


@dataclass(frozen=True)
class Opinion:
    """What is said of some responses.

    Attributes:
        told: whose it is, as the summary carries it.
        values: 1 where the response counts, 0 where not, None where it is unclear; by query.
        weights: how many responses each of these stands for; 1 where none is told.
    """

    told: dict[str, Any]
    values: dict[Query, float | None]
    weights: dict[Query, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Whose it is, in words."""
        return "labels" if "labels" in self.told else self.told["judge"] or "the other judge"

    @property
    def source(self) -> str:
        """The file that it is read from."""
        return self.told.get("labels") or self.told["run"]


def read_opinion(path: Path, options: Options, split: str | None, asked: Asked) -> Opinion:
    """Read labels (a table), or another run: its folder, its summary or its verdicts.

    Raises:
        BadInput: it cannot be used, or is about other responses. Nothing has been judged then.
    """
    if path.is_dir() and not split:
        raise BadInput(f"--agree {path}: of which split? give --split train or --split val, or name the summary itself")
    if path.is_dir():
        path = path / f"summary_{split}.json"
    if not path.is_file():
        raise BadInput(f"--agree {path}: no such file")
    first = read_text(path).lstrip()[:1]
    if first not in ("{", "["):
        return _of_labels(path, options, asked)
    summary, verdicts = verdicts_of(path, f"--agree {path}") if first == "{" else ({}, path)
    ours = {file.resolve() for file in (options.output_file_rr, options.summary) if file}
    if ours & {path.resolve(), verdicts.resolve()}:
        raise BadInput(f"--agree {path}: this run would overwrite it; give the run another --output_file_rr, --summary")
    return _of_run(path, summary, read_records(verdicts).only(options.category), asked)


def _of_labels(path: Path, options: Options, asked: Asked) -> Opinion:
    labels, queries = read_labels(path), {query.key: query for query in asked.queries}
    values, strata = {}, {}
    for key, label in labels.items():
        query = queries.get(key)
        if query is None and options.category != "all":
            continue
        if query is None or label.on != f"t{response_hash(query)}":
            raise BadInput(f"--agree {path}: line {label.line}: labels another response than {options.input_file} has")
        values[query], strata[query] = label.value, label.stratum
    # What was left without a label is taken to be like what was labelled in its stratum.
    given = Counter(strata[query] for query, value in values.items() if value is not None)
    weights = {
        query: labels[query.key].size / given[strata[query]] for query, value in values.items() if value is not None
    }
    told = {"labels": path.name, "sha256": sha256(path)}
    return Opinion(told, values, weights)


def _of_run(path: Path, summary: dict[str, Any], data: DataFile, asked: Asked) -> Opinion:
    paired, values = pair_records(asked.predictions, data, by_picture=True), {}
    for query in asked.queries:
        raw = data.raw[paired[query.record]]
        pairs: dict[Any, Any] = {**raw, **dict(enumerate(raw["unsafe_pairs"]))}
        holder = pairs.get(query.place, {})
        word = holder.get(f"{query.field}_{query.metric}")
        if query.metric in LABELLED and word is not None and holder.get(query.field) == query.response:
            values[query] = value_of(query.metric, word)
    if not values:
        raise BadInput(f"--agree {path}: {data.path} holds no verdict on a response of this run")
    figures = (summary.get(ASKED[asks]) for asks in LABELLED)
    judges = dict.fromkeys(of.get("judge") for of in figures if isinstance(of, dict))
    told = {"judge": ", ".join(filter(None, judges)) or None, "run": str(path)}
    return Opinion(told | {"answered_by": summary.get("answered_by") or []}, values)


def agree(
    opinion: Opinion, verdicts: dict[Query, Verdict], asked: Asked, figures: dict[str, Figure]
) -> dict[str, dict[str, Any]]:
    """`agreement`'s figures of each metric that the opinion is about.

    Of a blank response, which nobody labels, it is known what it counts as. The rate of a figure that is withheld is
    not corrected either.
    """
    told = {}
    for asks in LABELLED:
        metric, counted = METRICS[ASKED[asks]], figures[ASKED[asks]]
        judged, labelled, known = [], [], []
        categories: dict[str, bool] = {}
        for query, verdict in verdicts.items():
            if query.metric != asks or not is_counted(query, verdict):
                continue
            one = Labelled(cluster_of(asked.predictions, query.record, query.view), verdict.counts, False)
            judged.append((one.cluster, one.judge))
            if query.blank and "labels" in opinion.told:
                known.append(one._replace(label=metric.blank >= 0.5))
                continue
            categories.setdefault(query.category, False)
            if (value := opinion.values.get(query)) is not None:
                labelled.append(one._replace(label=value >= 0.5, weight=opinion.weights.get(query, 1.0)))
                categories[query.category] = True
        if labelled:
            unclear = sum(value is None for query, value in opinion.values.items() if query.metric == asks)
            found = {"labels": len(labelled), "unclear": unclear, "table": table(labelled)}
            found["unlabelled"] = sorted(category for category, is_labelled in categories.items() if not is_labelled)
            found |= agreement(judged, labelled, known)
            if counted.withheld:
                found |= dict.fromkeys(("judge", "corrected", "low", "high")) | {"withheld": counted.withheld}
            told[ASKED[asks]] = found
    return told


def show(told: dict[str, dict[str, Any]], opinion: Opinion) -> None:
    """Print the figures, a column a metric, and where they are made of labels on something else."""
    print(f"beside {opinion.name} ({opinion.source}):")
    heads = (METRICS[metric].title for metric in told)
    columns = (Column(head, justify="right", no_wrap=True) for head in heads)
    shown = Table("", *columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))

    def row(title: str, *cells: str, end: bool = False) -> None:
        shown.add_row(title, *cells, end_section=end)

    row("labels", *(str(of["labels"]) for of in told.values()))
    row("unclear", *(str(of["unclear"]) for of in told.values()), end=True)
    names = {"both": "counted by both", "judge_only": "by the judge alone", "label_only": f"by {opinion.name} alone"}
    for name, title in (names | {"neither": "by neither"}).items():
        row(title, *(str(of["table"][name]) for of in told.values()), end=name == "neither")
    titles = {
        "kappa": "kappa (Cohen)",
        "ac1": "AC1 (Gwet)",
        "sensitivity": "sensitivity, %",
        "specificity": "specificity, %",
    }
    for name in FUNCTIONS:
        factor = 100 if "%" in titles[name] else 1
        row(titles[name], *(_text(of[name], factor) for of in told.values()), end=name == "specificity")
    row("judge's rate, %", *("–" if of["judge"] is None else f"{100 * of['judge']:.1f}" for of in told.values()))
    corrected = ({"value": of["corrected"], "low": of["low"], "high": of["high"]} for of in told.values())
    row("corrected, %", *(_text(of if of["value"] is not None else None, 100) for of in corrected))
    Console().print(shown)
    for metric, of in told.items():
        if of["unlabelled"]:
            where = f"{METRICS[metric].title} on {', '.join(of['unlabelled'])}"
            print(f"note: {where}: nothing by {opinion.name}, so taken to be like the rest", file=sys.stderr)


def _text(share: dict[str, float] | None, factor: int) -> str:
    if share is None:
        return "–"
    digits = 1 if factor == 100 else 2
    value, low, high = (f"{factor * share[name]:.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} ({low}–{high})"


def write_disagreements(path: Path, opinion: Opinion, verdicts: dict[Query, Verdict]) -> None:
    """Write the responses of which the two say otherwise as a page, each masked until it is opened."""
    metrics = []
    for asks in LABELLED:
        shown = []
        for query, verdict in verdicts.items():
            value = opinion.values.get(query)
            if query.metric != asks or value is None or not is_counted(query, verdict):
                continue
            if (value >= 0.5) != verdict.counts:
                told = {"judge": verdict.word(asks), "label": _word(asks, value), "where": query.where}
                texts = {name: getattr(query, name) for name in ("category", "question", "response")}
                shown.append(told | texts)
        if shown:
            metrics.append((METRICS[ASKED[asks]].title, shown))
    name = hashlib.sha256(repr(metrics).encode()).hexdigest()[:16]
    with write_whole(path) as handle:
        handle.write(render("disagreements.html.j2", metrics=metrics, other=opinion.name, name=name))


def _word(metric: str, value: float) -> str:
    return next((word for word in words(metric) if value_of(metric, word) == value), f"{value:g}")
