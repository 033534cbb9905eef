"""One scoring run: predictions and reference in, verdicts and summary out."""

import platform
import re
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from safeeraser import __version__
from safeeraser.benchmark.files import described_by, make_room_for, read_json, sha256
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.errors import BadInput
from safeeraser.score import outputs
from safeeraser.score.judges import Judge, make_judge, takes
from safeeraser.score.metrics import Rate, judged, mean_recall, rouge_recalls
from safeeraser.score.queries import METRICS, Query, build_queries, pair_records
from safeeraser.score.replay import write_replies

PROTOCOLS = ("official", "corrected")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Options:
    """What `eval_all.py` was asked; its help describes each."""

    input_file: Path
    file_refer: Path
    output_file_rr: Path
    summary: Path | None = None
    api_key: str | None = field(default=None, repr=False)
    judge: str = "gpt-4o"
    judge_model: str = "gpt-4o"
    base_url: str | None = None
    replies: Path | None = None
    save_replies: Path | None = None
    protocol: str = "official"
    split: str | None = None
    category: str = "all"
    concurrency: int = 16

    @property
    def statistics(self) -> Path:
        """Where the release keeps its statistics: beside the verdicts, with the ending .txt."""
        return self.output_file_rr.with_suffix(".txt")


def score(options: Options) -> None:
    """Judge a predictions file and write the outputs, each whole, after the last reply.

    Raises:
        BadInput: an option, a file or the judge's key cannot be used. Nothing has been written then, but for the
            replies already paid for.
    """
    split, written = _split(options), _outputs(options)
    if not options.input_file.exists():
        raise BadInput(f"--input_file {options.input_file}: no such file; ckpt_infer.py makes the predictions")
    predictions = read_records(options.input_file).only(options.category)
    reference = read_records(options.file_refer).only(options.category)
    official = options.protocol == "official"
    paired = pair_records(predictions, reference, by_picture=not official)
    _note_strangers(predictions, reference, paired)
    queries = build_queries(predictions, reference, paired)
    judge = _judge(options)
    for path in written:
        make_room_for(path)  # before the judge is paid
    replies = _ask(judge, [query for query in queries if takes(judge, query)])
    rates = {metric: _rate(metric, queries, replies, judge, keep_failed=official) for metric in METRICS}
    items = [query for query in queries if query.metric == "gpt"]
    recalls = rouge_recalls(items)
    rates["rouge_l"] = mean_recall(recalls)

    outputs.write_verdicts(options.output_file_rr, predictions, replies, dict(zip(items, recalls, strict=True)))
    outputs.write_statistics(options.statistics, rates)
    if options.save_replies:
        write_replies(options.save_replies, replies)
    if options.summary:
        outputs.write_summary(options.summary, split, rates, _provenance(options))
    outputs.show(rates)
    note = judge.finish()
    if note:
        print(f"note: {note}", file=sys.stderr)


def _split(options: Options) -> str | None:
    """Which split is scored: said, or told by the reference's name. Only the summary needs to know."""
    told = [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", options.file_refer.stem.lower())]
    if options.split or len(told) == 1:
        return options.split or told[0]
    if options.summary:
        raise BadInput(f"{options.file_refer}: the name tells neither train nor val; give --split train or --split val")
    return None


def _note_strangers(predictions: DataFile, reference: DataFile, paired: list[int]) -> None:
    pairs = zip(predictions.records, (reference.records[index] for index in paired), strict=True)
    differ = sum(record.image_path != original.image_path for record, original in pairs)
    if differ:
        print(
            f"note: {differ} of {len(paired)} records name another picture than the reference's record at the same "
            "position; protocol official pairs them all the same, --protocol corrected pairs by picture",
            file=sys.stderr,
        )


def _outputs(options: Options) -> list[Path]:
    """The files this run writes. Raises `BadInput` if one is a folder, or is also another output or an input."""
    if not options.output_file_rr.name:
        raise BadInput(f"--output_file_rr: '{options.output_file_rr}' names no file")
    named = (options.output_file_rr, options.statistics, options.summary, options.save_replies)
    written = [path for path in named if path]
    taken = {path.resolve() for path in (options.input_file, options.file_refer, options.replies) if path}
    for path in written:
        if path.resolve() in taken:
            raise BadInput(f"{path}: named twice, as an output and as another file; give each its own name")
        taken.add(path.resolve())
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name a file")
    return written


def _judge(options: Options) -> Judge:
    return make_judge(
        options.judge,
        model=options.judge_model,
        api_key=options.api_key,
        base_url=options.base_url,
        concurrency=options.concurrency,
        swapped=options.protocol == "official",
        replies=options.replies,
        ledger=options.output_file_rr.with_name(options.output_file_rr.name + ".replies.jsonl"),
    )


def _rate(metric: str, queries: list[Query], replies: dict[Query, str], judge: Judge, *, keep_failed: bool) -> Rate:
    """A metric over what was asked; whatever the judge could have decided but had no response to is `skipped`."""
    of_metric = [query for query in queries if query.metric == metric and metric in judge.decides]
    given = [replies[query] for query in of_metric if query in replies]
    return judged(metric, given, len(of_metric) - len(given), keep_failed=keep_failed)


def _ask(judge: Judge, queries: list[Query]) -> dict[Query, str]:
    """The judge's replies in the queries' order, whatever order they came in."""
    columns = (
        TextColumn("judging"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    replies = {}
    console = Console(stderr=True)
    # It vanishes at the end, and stays away from log files, so that an error is the only line left.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(queries), rate="")
        for query, reply in judge.reply(queries):
            replies[query] = reply
            speed = progress.tasks[0].speed
            progress.update(task, advance=1, rate=f"{speed:.1f}/s" if speed else "")
    return {query: replies[query] for query in queries}


def _provenance(options: Options) -> dict:
    """What a number must carry to be compared with another."""
    beside = described_by(options.input_file)
    return {
        "protocol": options.protocol,
        "judge": options.judge,
        "judge_model": options.judge_model if options.judge == "gpt-4o" else None,
        "category": options.category,
        "versions": {
            "safeeraser": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("openai", "rouge-score")},
        },
        "inputs": {
            "predictions": {"file": options.input_file.name, "sha256": sha256(options.input_file)},
            "made_with": read_json(beside) if beside.is_file() else None,
            "reference": {"file": options.file_refer.name, "sha256": sha256(options.file_refer)},
        },
    }
