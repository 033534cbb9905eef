"""One scoring run: read, pair, ask, judge, measure, write."""

import sys
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.metrics import ASKED, METRICS, Figure
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.errors import BadInput
from safeeraser.judge import costs
from safeeraser.judge.panel import Panel
from safeeraser.judge.replay import write_replies
from safeeraser.score import compare
from safeeraser.score.asking import build_queries, pair_records
from safeeraser.score.metrics import blanks, by_view, figure, figures, judged, recovered, rouge
from safeeraser.score.options import Options, outputs_of, read_split
from safeeraser.score.summary import as_json, made_with, show, summary
from safeeraser.score.verdicts import refuse_to_replace, values_of, with_verdicts, write_statistics

INCOMPLETE = 3  # the exit code of a run that is through, but whose figures must not stand as results


def score(options: Options) -> int:
    """Judge a predictions file and write the outputs, each whole, after the last reply.

    Returns the exit code: 0, or `INCOMPLETE` if a figure had to be withheld.

    Raises:
        BadInput: an option, a file or a judge's key cannot be used. Nothing has been written then, but for the replies
            in the store.
    """
    split, written = read_split(options), outputs_of(options)
    predictions, reference, paired = read_files(options)
    queries = build_queries(predictions, reference, paired, refusals=options.refusals)
    panel = Panel(options.judging)
    if options.judging.dry_run:
        costs.show_plan(panel.foresee(queries), panel.prices, share=options.judging.price_share)
        return 0
    # Before a judge is paid.
    other = compare.read_other(options.compare, options) if options.compare else None
    made_with(options.input_file)
    check_outputs(written, options)

    verdicts = panel.ask(queries)
    titles = {ASKED[metric]: title for metric, title in panel.titles.items()}
    recalls = rouge(predictions, reference, paired, official=options.official)
    items = [*judged((query for query in queries if panel.of(query.metric)), verdicts, predictions), *recalls]
    found = figures(items, options, titles)
    views = {"blank": by_view(blanks(predictions), options)}
    if options.refusals:
        views["refusals"] = by_view((item for item in items if item.metric == "rr"), options)
    if options.recovered:
        found["recovered"] = figure(recovered(predictions, reference, paired), options)
    answered = panel.answered_by(verdicts)

    records = with_verdicts(predictions, verdicts, recalls)
    compared = compare.compare(values_of(records, official=options.official), other, found, answered) if other else None
    if options.output_file_rr:
        write_json(options.output_file_rr, records)
    if options.statistics:
        write_statistics(options.statistics, found)
    if options.save_replies:
        write_replies(options.save_replies, verdicts)
    if options.summary:
        carried = summary(options, split, panel, predictions, items)
        told = {"answered_by": answered, **carried} | ({"compared_with": compared} if compared else {})
        write_json(options.summary, {name: as_json(one) for name, one in (found | views).items()} | told)
    show(found, views, titles)
    if compared:
        compare.show(compared)
    return conclude(found, views.get("refusals", {}), panel, answered)


def read_files(options: Options) -> tuple[DataFile, DataFile, list[int]]:
    """The predictions, the reference, and for each record of the one the index of its record in the other."""
    if not options.input_file.exists():
        raise BadInput(f"--input_file {options.input_file}: no such file; ckpt_infer.py makes the predictions")
    predictions = read_records(options.input_file).only(options.category)
    reference = read_records(options.file_refer).only(options.category)
    paired = pair_records(predictions, reference, by_picture=not options.official)
    pairs = zip(predictions.records, (reference.records[index] for index in paired), strict=True)
    if differ := sum(record.image_path != original.image_path for record, original in pairs):
        print(
            f"note: {differ} of {len(paired)} records name another picture than the reference's record at the same "
            "position; protocol official pairs them all the same, --protocol corrected pairs by picture",
            file=sys.stderr,
        )
    return predictions, reference, paired


def check_outputs(written: list[Path], options: Options) -> None:
    """Raises `BadInput` where a file cannot be written, or would replace one that no scoring run wrote."""
    files = [path for path in written if path != options.judging.store]
    for path in files:
        make_room_for(path)
    for path in files if not options.overwrite else ():
        refuse_to_replace(path)


def conclude(
    figures: dict[str, Figure], refusals: dict[str, Figure], panel: Panel, answered: list[dict[str, Any]]
) -> int:
    """Say what must be known of the figures; returns the exit code."""
    notes, found = [], {METRICS[metric].title: one for metric, one in figures.items()}
    found |= {f"refusals, {view}": one for view, one in refusals.items()}
    if skipped := ", ".join(f"{title} {one.skipped}" for title, one in found.items() if one.skipped):
        notes.append(f"no response to judge, so left out: {skipped}")
    if differ := ", ".join(f"{title} {one.differ}" for title, one in found.items() if one.differ):
        notes.append(f"replies that the release reads otherwise than a strict reading does: {differ}")
    if failures := panel.failures():
        notes.append(f"judge calls failed ({failures}); the same command asks only those again")
    elif any(one.failed for one in found.values()):
        notes.append("the recorded replies hold calls that had failed; --max_failed says how many may stay")
    for judge in dict.fromkeys(entry["judge"] for entry in answered):
        several = [entry for entry in answered if entry["judge"] == judge]
        if len(several) > 1:
            told = ", ".join(f"{told_model(entry)}: {entry['replies']} replies" for entry in several)
            notes.append(f"these figures mix what answered as {judge}: {told}")
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    withheld: dict[str, list[str]] = {}
    for title, one in found.items():
        for reason in filter(None, one.withheld.split("; ")):
            option = "--max_failed" if "replies" in reason else "--max_blank"
            withheld.setdefault(option, []).append(f"{title} ({reason})")
    for option, told in withheld.items():
        print(f"error: withheld past {option}: {'; '.join(told)}", file=sys.stderr)
    return INCOMPLETE if withheld else 0


def told_model(entry: dict[str, Any]) -> str:
    """The model that answered, with its fingerprint, as far as the server told."""
    return " ".join(filter(None, (entry["model"] or "a model that was not named", entry["fingerprint"])))
