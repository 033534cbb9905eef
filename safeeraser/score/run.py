"""One scoring run: read, pair, ask, judge, measure, write."""

import sys
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.judged import values_of
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.judge import check, costs
from safeeraser.judge.panel import Panel, write_replies
from safeeraser.score import agree, compare
from safeeraser.score.asking import read
from safeeraser.score.label_sheet import write_sheet
from safeeraser.score.metrics import MEASURED, Found, measure
from safeeraser.score.options import Options, outputs_of, read_split
from safeeraser.score.summary import show, summary
from safeeraser.score.verdicts import check_outputs, with_verdicts, write_statistics


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
    asked = read(options)
    panel = Panel(options.judging)
    if options.judging.dry_run:
        costs.show_plan(panel.foresee(asked.queries), panel.prices, share=options.judging.price_share)
        return None
    # Before a judge is paid.
    other = compare.read_other(options.compare, options) if options.compare else None
    opinion = agree.read_opinion(options.agree, options, split, asked) if options.agree else None
    check_outputs(written, options, panel.titles)

    verdicts = panel.ask(asked.queries)
    found = measure(asked, verdicts, panel, options)
    records = with_verdicts(asked.predictions, verdicts, found.recalls)
    told = summary(options, split, panel, asked, found)
    told["judge_check"] = check.recall(panel, verdicts)
    if other:
        values = values_of(records, official=options.official)
        told["compared_with"] = compare.compare(values, other, found.figures, told)
    if opinion:
        told["agreement"] = agree.agree(opinion, verdicts, asked, found.figures)
        told["agreement_with"] = opinion.told

    if options.label_sheet:  # first, since it may find too little to draw from
        drawn = write_sheet(options.label_sheet, verdicts, options.label_metrics, options.label_n, options.label_seed)
        print(f"to label: {drawn} responses, in {' and '.join(map(str, options.sheet))}")
    if options.output_file_rr:
        write_json(options.output_file_rr, records)
    if options.statistics:
        write_statistics(options.statistics, found.figures)
    if options.save_replies:
        write_replies(options.save_replies, verdicts, panel)
    if options.summary:
        write_json(options.summary, told)
    if options.disagreements and opinion:
        agree.write_disagreements(options.disagreements, opinion, verdicts)
    show(found, panel)
    if other:
        compare.show(told["compared_with"])
    if opinion:
        agree.show(told["agreement"], opinion)
    return Scored(told, conclude(found, panel, told["judge_check"]))


def conclude(measured: Found, panel: Panel, checks: dict[str, Any]) -> dict[str, list[str]]:
    """Say what must be known of the figures, and who was never checked; returns those that are withheld, by option."""
    notes, found = [], {METRICS[metric].title: one for metric, one in measured.figures.items()}
    found |= {f"refusals, {view}": one for view, one in measured.views.get("refusals", {}).items()}
    compared = {METRICS[metric].title for metric in (*MEASURED, "recovered")}
    reasons = ("no response to judge", found.keys() - compared), ("no response or no reference for it", compared)
    for why, titles in reasons:
        skipped = [f"{title} {one.skipped}" for title, one in found.items() if one.skipped and title in titles]
        notes += [f"{why}, so left out: {', '.join(skipped)}"] if skipped else []
    if differ := ", ".join(f"{title} {one.differ}" for title, one in found.items() if one.differ):
        notes.append(f"replies that the release reads otherwise than a strict reading does: {differ}")
    if failures := panel.failures():
        notes.append(f"judge calls failed ({failures}); the same command asks only those again")
    elif any(one.failed for one in found.values()):
        notes.append("the recorded replies hold calls that had failed; --max_failed says how many may stay")
    for judge in panel.served:
        if judge.refused:
            notes.append(f"{judge.title} was asked without {', '.join(sorted(judge.refused))}, which it does not take")
    answered = measured.answered_by
    for judge in dict.fromkeys(entry["judge"] for entry in answered):
        several = [entry for entry in answered if entry["judge"] == judge]
        if len(several) > 1:
            told = ", ".join(f"{told_model(entry)}: {entry['replies']} replies" for entry in several)
            notes.append(f"these figures mix what answered as {judge}: {told}")
    if never := {panel.titles[asked] for asked, metric in ASKED.items() if checks.get(metric, True) is None}:
        _say_once(f"never checked on cases of known truth: {', '.join(sorted(never))}; --check_judge does it")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    withheld: dict[str, list[str]] = {}
    for title, one in found.items():
        for reason in filter(None, one.withheld.split("; ")):
            option = "--max_failed" if "replies" in reason else "--max_blank"
            withheld.setdefault(option, []).append(f"{title} ({reason})")
    for option, figures in withheld.items():
        print(f"error: withheld past {option}: {'; '.join(figures)}", file=sys.stderr)
    return withheld


@cache
def _say_once(note: str) -> None:
    """An audit scores many points with one judge."""
    print(f"note: {note}", file=sys.stderr)


def told_model(entry: dict[str, Any]) -> str:
    """The model that answered, with its fingerprint, as far as the server told."""
    return " ".join(filter(None, (entry["model"] or "a model that was not named", entry["fingerprint"])))
