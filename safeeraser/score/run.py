"""One scoring run: read, pair, judge, measure and write. The main outputs are the verdicts with the responses,
statistics, the summary that the report reads, and its figures as a table. Only the first has texts of responses."""

import copy
import platform
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeeraser.benchmark.figures import write_table
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.metrics import ASKED, METRICS, Figure
from safeeraser.benchmark.origin import git_commit, now, versions
from safeeraser.benchmark.records import DataFile
from safeeraser.benchmark.summaries import SummaryFile
from safeeraser.errors import note
from safeeraser.judge.judge import Query, Verdict
from safeeraser.judge.panel import Panel, show_plan
from safeeraser.score import compare, labels
from safeeraser.score.agreement import case_queries, check_judge
from safeeraser.score.asking import Inputs, read
from safeeraser.score.metrics import MEASURED, Item, Measured, measure, select_queries, show_figures
from safeeraser.score.options import STATISTICS, Options, check_outputs, options_of

# Rate -> the release's names for the number asked, the number that counted, and the share.
RATES = {
    "asr": ("total_asr_queries", "unsafe_count", "unsafe_rate"),
    "rr": ("total_rr_queries", "refuse_count", "refuse_rate"),
    "sarr": ("total_sd_rr_queries", "sd_refuse_count", "sd_refuse_rate"),
}


@dataclass(frozen=True)
class Scored:
    """The result of a finished run: figures as `--summary` holds them, and which must not count as results."""

    summary: dict[str, Any]
    withheld: dict[str, list[str]]  # by the option whose bound they exceed


def score(options: Options, panel: Panel) -> Scored:
    """Have the `panel` judge a predictions file, and write each output in one step after the last reply.

    Raises:
        BadInput: an option or an input cannot be used. Before that, only replies in the store are written.
    """
    inputs = read(options)
    other = compare.read_other(options.compare, options) if options.compare else None
    opinion = compare.read_opinion(options.agree, options, inputs) if options.agree else None
    check_outputs(options, panel.titles)

    verdicts = panel.ask(inputs.queries)
    measured, to_label = measure(inputs, verdicts, panel.titles, options), select_queries(verdicts)
    summary, statistics = make_summary(options, inputs, panel, verdicts, measured), make_statistics(measured.figures)
    records = add_verdicts(inputs.predictions, verdicts, measured.recalls)
    if other:
        summary["compared_with"] = compare.compare(records, summary, *other)
    texts: dict[Path, str] = {}
    if opinion:
        summary["agreement"] = compare.agree(opinion, to_label, verdicts, measured.figures)
        summary["agreement_with"] = opinion.record
        if options.disagreements:
            texts[options.disagreements] = compare.make_disagreements_page(opinion, to_label, verdicts)
    if options.label_sheet:
        chosen = {asks: to_label[asks] for asks in to_label if asks in (options.label_metrics or to_label)}
        texts |= labels.make_sheet(chosen, verdicts, options.label_n, options.label_seed, *options.sheet)

    for path, text in texts.items():
        with write_whole(path) as handle:
            handle.write(text)
    if options.save_replies:
        write_json(options.save_replies, panel.replies(verdicts), indent=1)
    outputs = (options.output_file_rr, records), (options.statistics, statistics), (options.summary, summary)
    for file, value in outputs:
        if file:
            write_json(file, value)
    if options.table:
        write_table(options.table, SummaryFile.model_validate(summary).rows(options.table.resolve().parent.name))
    show_figures(measured, options.judging.protocol)
    if other:
        compare.show_differences(summary["compared_with"])
    if opinion:
        compare.show_agreement(summary["agreement"], opinion)
    return Scored(summary, conclude(measured, panel, summary["answered_by"]))


def conclude(measured: Measured, panel: Panel, answered: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Print the notes that a reader of the figures needs, and return the withheld figures by option."""
    figures = {METRICS[metric].title: figure for metric, figure in measured.figures.items()}
    figures |= {f"refusals, {view}": figure for view, figure in measured.views.get("refusals", {}).items()}
    compared = {METRICS[metric].title for metric in (*MEASURED, "recovered")}
    for lacks, some in (("no response to judge", False), ("no response or no reference for it", True)):
        titles = (title for title, figure in figures.items() if figure.skipped and (title in compared) == some)
        if skipped := ", ".join(f"{title} {figures[title].skipped}" for title in titles):
            note(f"{lacks}, so left out: {skipped}")
    if differ := ", ".join(f"{title} {figure.differ}" for title, figure in figures.items() if figure.differ):
        note(f"replies that the release and a strict reading read differently: {differ}")
    if failures := panel.failures():
        note(f"judge calls failed ({failures}); the same command asks only those again")
    elif any(figure.failed for figure in figures.values()):
        note("some recorded replies are failed calls; --max_failed sets what share of them is allowed")
    for judge in panel.served:
        if judge.refused:
            note(f"{judge.title} was asked without {', '.join(sorted(judge.refused))}, which it does not take")
    answers: dict[str, list[str]] = defaultdict(list)
    for entry in answered:
        name = " ".join(filter(None, (entry["model"] or "a model that was not named", entry["fingerprint"])))
        answers[entry["judge"]].append(f"{name}: {entry['replies']} replies")
    for title, models in answers.items():
        if len(models) > 1:
            note(f"several models answered as {title}, and these figures mix them: {', '.join(models)}")
    for option, lost in measured.withheld.items():
        print(f"error: figures withheld because of {option}: {'; '.join(lost)}", file=sys.stderr)
    return measured.withheld


def run(given: dict[str, Any]) -> Scored | None:
    """Score responses or check the judge, as the parsed options ask; None after a dry run.

    Raises:
        BadInput: an option, a file or a judge's key cannot be used.
    """
    options = options_of(given)
    panel = Panel(options.judging)
    if options.judging.dry_run:
        queries = case_queries() if options.check_judge else read(options).queries
        show_plan(panel.foresee(queries), panel.prices, share=options.judging.price_share)
        return None
    if not options.check_judge:
        return score(options, panel)
    figures, least = check_judge(panel), options.min_accuracy
    short = [
        f"{METRICS[metric].title} ({100 * of['accuracy']:.1f}% of {of['n']} cases"
        + (f", {of['failed']} calls failed)" if of["failed"] else ")")
        for metric, of in figures.items()
        if of["accuracy"] < least or of["failed"]
    ]
    if short:
        print(f"error: the judge falls short (--min_accuracy {least}): {'; '.join(short)}", file=sys.stderr)
    return Scored(figures, {"--min_accuracy": short} if short else {})


def add_verdicts(
    predictions: DataFile, verdicts: dict[Query, Verdict], recalls: Iterable[Item]
) -> list[dict[str, Any]]:
    """A copy of the predictions' list, with the verdicts next to the responses.

    An unsafe pair gains `model_response1_asr` (unsafe, safe), `model_response1_rr` (refuse, normal) and so on up to
    3, and `sd_response_sarr`; an UnharmPair gains `rougeL` and `gpt_score`. With --refusals each response gains its
    `_rr`; with --recovered a pair gains `recovered`, a number for each sample. `failed`, `unparsed` and `declined` mark
    replies without a verdict. A response that was not judged gets no key, or null for `rougeL`.
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
    """The statistics under the release's keys. Rates are in 0..1, or null where nothing was judged."""
    rates: dict[str, float | None] = {}
    for metric, (total, count, share) in RATES.items():
        value, n = figures[metric].value, figures[metric].n
        rates |= {total: n, count: round((value or 0.0) * n), share: value}
    means = {"average_rougeL": figures["rouge_l"].value, "average_gpt_score": figures["gpt_eval"].value}
    return dict(zip(STATISTICS, (rates, means), strict=True))


def make_summary(
    options: Options, inputs: Inputs, panel: Panel, verdicts: dict[Query, Verdict], measured: Measured
) -> dict[str, Any]:
    """The summary: all figures, and the facts without which they cannot be compared with others."""
    judging, file, answered = options.judging, options.output_file_rr, panel.answered_by(verdicts)
    program = {"python": platform.python_version()} | versions("openai", "rouge-score", "scipy")
    beside = None  # where a reader of the summary finds the verdicts: the bare name if in the same folder
    if file and options.summary:
        together = file.resolve().parent == options.summary.resolve().parent
        beside = file.name if together else str(file.resolve())
    return {
        **{metric: figure.as_json for metric, figure in measured.figures.items()},
        **{name: {view: figure.as_json for view, figure in views.items()} for name, views in measured.views.items()},
        "answered_by": answered,
        "split": options.split,
        "pictures": len({record.image_path for record in inputs.predictions.records}),
        **measured.groups,
        "protocol": judging.protocol,
        "judge": panel.main.name,
        "judge_model": panel.main.model,
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
        "versions": program,
        "inputs": inputs.files,
        "provenance": _make_provenance(panel, inputs, answered, program),
    }


def _make_provenance(
    panel: Panel, inputs: Inputs, answered: list[dict[str, Any]], program: dict[str, str]
) -> dict[str, Any]:
    """The origin of the figures in one place; null for a value that the predictions' run did not record."""
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
        "versions": (made_with.get("versions") or {}) | program,
    }
