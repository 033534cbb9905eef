"""One scoring run: read, pair, ask, judge, measure, write."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safeeraser.benchmark.figures import write_table
from safeeraser.benchmark.files import write_json, write_whole
from safeeraser.benchmark.judged import values_of
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.summaries import SummaryFile
from safeeraser.judge.panel import Panel, show_plan, write_replies
from safeeraser.score import compare, labels, outputs
from safeeraser.score.agreement import check_judge
from safeeraser.score.asking import read
from safeeraser.score.metrics import MEASURED, Measured, measure
from safeeraser.score.options import Options, options_of, outputs_of, read_split


@dataclass(frozen=True)
class Scored:
    """A scoring run that is through: its figures as `--summary` holds them, and which must not stand as results."""

    summary: dict[str, Any]
    withheld: dict[str, list[str]] = field(default_factory=dict)  # by the option whose bound they are past


def score(options: Options) -> Scored | None:
    """Judge a predictions file and write the outputs, each whole, after the last reply.

    Returns what was found; None from a dry run.

    Raises:
        BadInput: an option, a file or a judge's key cannot be used. Nothing has been written then, but for the replies
            in the store.
    """
    split, written = read_split(options), outputs_of(options)
    inputs = read(options)
    panel = Panel(options.judging)
    if options.judging.dry_run:
        show_plan(panel.foresee(inputs.queries), panel.prices, share=options.judging.price_share)
        return None
    # Before a judge is paid.
    other = compare.read_other(options.compare, options) if options.compare else None
    opinion = compare.read_opinion(options.agree, options, split, inputs) if options.agree else None
    judges = panel.titles
    outputs.check_outputs(written, options, judges)

    verdicts = panel.ask(inputs.queries)
    answered = panel.answered_by(verdicts)
    measured = measure(inputs, verdicts, judges, options)
    summary = outputs.make_summary(options, split, inputs, panel, answered, measured)
    statistics = outputs.make_statistics(measured.figures)
    records = outputs.add_verdicts(inputs.predictions, verdicts, measured.recalls)
    if other:
        values = values_of(records, official=options.official)
        summary["compared_with"] = compare.compare(values, summary, other)
    texts: dict[Path, str] = {}
    to_label = labels.select_queries(verdicts)
    if options.label_sheet:
        (table, page), metrics = options.sheet, options.label_metrics or to_label
        some = {query: verdicts[query] for metric in to_label if metric in metrics for query in to_label[metric]}
        rows = labels.draw_sheet(some, options.label_n, options.label_seed)
        texts |= {table: labels.make_sheet_table(rows), page: labels.make_sheet_page(rows, page)}
        print(f"to label: {len(rows)} responses, in {table} and {page}")
    if opinion:
        summary["agreement"] = compare.agree(opinion, to_label, verdicts, measured.figures)
        summary["agreement_with"] = opinion.record
        if options.disagreements:
            texts[options.disagreements] = compare.make_disagreements_page(opinion, to_label, verdicts)

    if options.save_replies:
        write_replies(options.save_replies, verdicts, panel)
    for path, text in texts.items():
        with write_whole(path) as handle:
            handle.write(text)
    files = (options.output_file_rr, records), (options.statistics, statistics), (options.summary, summary)
    for file, value in files:  # a device may be named twice
        if file:
            write_json(file, value)
    if options.table:
        write_table(options.table, SummaryFile.model_validate(summary).rows(options.table.resolve().parent.name))
    outputs.show_figures(measured, options.judging.protocol, judges)
    if other:
        compare.show_differences(summary["compared_with"])
    if opinion:
        compare.show_agreement(summary["agreement"], opinion)
    return Scored(summary, conclude(measured, panel, answered))


def conclude(measured: Measured, panel: Panel, answered: outputs.Answered) -> dict[str, list[str]]:
    """Say what must be known of the figures; returns those that are withheld, by option."""
    notes, figures = [], {METRICS[metric].title: figure for metric, figure in measured.figures.items()}
    figures |= {f"refusals, {view}": figure for view, figure in measured.views.get("refusals", {}).items()}
    compared = {METRICS[metric].title for metric in (*MEASURED, "recovered")}
    for lacks, some in (("no response to judge", False), ("no response or no reference for it", True)):
        titles = (title for title, figure in figures.items() if figure.skipped and (title in compared) == some)
        if skipped := ", ".join(f"{title} {figures[title].skipped}" for title in titles):
            notes.append(f"{lacks}, so left out: {skipped}")
    if differ := ", ".join(f"{title} {figure.differ}" for title, figure in figures.items() if figure.differ):
        notes.append(f"replies that the release reads otherwise than a strict reading does: {differ}")
    if failures := panel.failures():
        notes.append(f"judge calls failed ({failures}); the same command asks only those again")
    elif any(figure.failed for figure in figures.values()):
        notes.append("the recorded replies hold calls that had failed; --max_failed says how many may stay")
    for judge in panel.served:
        if judge.refused:
            notes.append(f"{judge.title} was asked without {', '.join(sorted(judge.refused))}, which it does not take")
    for title in dict.fromkeys(entry["judge"] for entry in answered):
        several = [entry for entry in answered if entry["judge"] == title]
        if len(several) > 1:
            models = []
            for entry in several:
                name = " ".join(filter(None, (entry["model"] or "a model that was not named", entry["fingerprint"])))
                models.append(f"{name}: {entry['replies']} replies")
            notes.append(f"these figures mix what answered as {title}: {', '.join(models)}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    withheld: dict[str, list[str]] = {}
    for title, reasons in measured.withheld.items():
        for option, reason in reasons:
            withheld.setdefault(option, []).append(f"{title} ({reason})")
    for option, lost in withheld.items():
        print(f"error: withheld past {option}: {'; '.join(lost)}", file=sys.stderr)
    return withheld


def run(given: dict[str, Any]) -> Scored | None:
    """Do what the options as they were parsed ask for: score responses, or check the judge."""
    options = options_of(given)
    if not options.check_judge:
        return score(options)
    figures, least = check_judge(options.judging), options.min_accuracy
    if figures is None:
        return None
    short = [
        f"{METRICS[metric].title} ({100 * of['accuracy']:.1f}% of {of['n']} cases"
        + (f", {of['failed']} calls failed)" if of["failed"] else ")")
        for metric, of in figures.items()
        if of["accuracy"] < least or of["failed"]
    ]
    if short:
        print(f"error: the judge falls short (--min_accuracy {least}): {'; '.join(short)}", file=sys.stderr)
    return Scored(figures, {"--min_accuracy": short} if short else {})
