"""One scoring run: predictions and reference in, verdicts and summary out."""

import platform
import sys
from collections import defaultdict
from collections.abc import Hashable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safeeraser import __version__
from safeeraser.benchmark.files import described_by, make_room_for, read_json, sha256, write_json
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.judge import costs, prompts
from safeeraser.judge.panel import Panel
from safeeraser.judge.queries import METRICS, Query
from safeeraser.judge.replay import write_replies
from safeeraser.judge.verdicts import Verdict
from safeeraser.score import compare, outputs
from safeeraser.score.asking import build_queries, pair_records
from safeeraser.score.metrics import Rate, judged, mean, recovered, rouge_recalls
from safeeraser.score.options import Options, outputs_of, read_split

INCOMPLETE = 3  # the exit code of a run that is through, but whose figures must not stand as results


def score(options: Options) -> int:
    """Judge a predictions file and write the outputs, each whole, after the last reply.

    Returns the exit code: 0, or `INCOMPLETE` if a figure had to be withheld.

    Raises:
        BadInput: an option, a file or a judge's key cannot be used. Nothing has been written then, but for the replies
            in the store.
    """
    split, written = read_split(options), outputs_of(options)
    if not options.input_file.exists():
        raise BadInput(f"--input_file {options.input_file}: no such file; ckpt_infer.py makes the predictions")
    predictions = read_records(options.input_file).only(options.category)
    reference = read_records(options.file_refer).only(options.category)
    paired = pair_records(predictions, reference, by_picture=not options.official)
    _note_strangers(predictions, reference, paired)
    queries = build_queries(predictions, reference, paired, refusals=options.refusals)
    panel = Panel(options)
    if options.dry_run:
        costs.show_plan(panel.foresee(queries), panel.prices, share=options.price_share)
        return 0
    # Before a judge is paid.
    other = compare.read_other(options.compare, options) if options.compare else None
    made_with = read_json(described_by(options.input_file)) if described_by(options.input_file).is_file() else None
    for path in set(written) - {options.store}:
        make_room_for(path)
    verdicts = panel.ask(queries)
    items = [query for query in queries if query.metric == "gpt"]
    recalls = dict(zip(items, rouge_recalls((item.reference, item.response) for item in items), strict=True))
    scored = Scored(predictions, queries, verdicts, recalls, panel, options)
    rates = scored.rates(queries)

    outputs.write_verdicts(options.output_file_rr, predictions, verdicts, recalls)
    if options.statistics:
        outputs.write_statistics(options.statistics, rates)
    if options.save_replies:
        write_replies(options.save_replies, verdicts)
    outputs.show(rates, panel.titles)
    told = {"inputs": inputs(options, made_with)} | beyond_the_paper(scored, reference, paired)
    if other:
        values = outputs.read_values(options.output_file_rr, official=options.official)
        told["compared_with"] = compare.compare(values, other, rates, panel.titles)
        compare.show(told["compared_with"])
    if options.summary:
        write_json(options.summary, summary(options, split, scored, rates) | told)
    return conclude(rates, panel)


class Scored:
    """What was asked and answered, ready to be averaged over any part of it."""

    def __init__(
        self,
        predictions: DataFile,
        queries: list[Query],
        verdicts: dict[Query, Verdict],
        recalls: dict[Query, float | None],
        panel: Panel,
        options: Options,
    ) -> None:
        self.predictions, self.records, self.queries = predictions, predictions.records, queries
        self.verdicts, self.recalls, self.panel, self.options = verdicts, recalls, panel, options

    def picture(self, query: Query) -> Hashable:
        """The picture that a query's response is about: what its answers have in common."""
        record = self.records[query.record]
        return record.SDImage_path if VIEWS[query.view].picture == "benign" else record.image_path

    def rates(self, queries: list[Query]) -> dict[str, Rate]:
        """Every rate over these queries."""
        rates = {}
        for metric in METRICS:
            decides = metric in self.panel.of(metric).decides
            of_metric = [query for query in queries if query.metric == metric and decides]
            rates[metric] = self._judged(query for query in of_metric if metric != "rr" or query.view == "forget")
        recalls = [(self.picture(query), self.recalls[query]) for query in queries if query in self.recalls]
        present = [(picture, recall) for picture, recall in recalls if recall is not None]
        return rates | {"rouge_l": mean(present, skipped=len(recalls) - len(present))}

    def refusals(self) -> dict[str, Rate]:
        """The share of refusals in each view that the file holds; empty where the judge cannot tell."""
        if "rr" not in self.panel.of("rr").decides:
            return {}
        views = defaultdict(list)
        for query in self.queries:
            if query.metric == "rr":
                views[query.view].append(query)
        return {view: self._judged(views[view]) for view in VIEWS if view in views}

    def _judged(self, queries: Iterable[Query]) -> Rate:
        """The rate of judged queries of one metric."""
        queries = list(queries)
        given = [(self.picture(query), self.verdicts[query]) for query in queries if query in self.verdicts]
        return judged(
            given,
            len(queries) - len(given),
            keep_failed=self.options.official,
            max_failed=self.options.max_failed,
        )

    def by(self, attribute: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Value, interval and number of each metric for each value of a record's attribute (`category`, `keyword`)."""
        groups = defaultdict(list)
        for query in self.queries:
            groups[getattr(self.records[query.record], attribute)].append(query)
        table: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        for group in sorted(groups.keys() - {""}):
            rates = self.rates(groups[group])
            for metric, (written, _) in outputs.NAMES.items():
                rate = outputs.as_json(rates[metric])
                table[written][group] = {key: rate[key] for key in ("value", "low", "high", "n")}
        return dict(table)


def summary(options: Options, split: str | None, scored: Scored, rates: dict[str, Rate]) -> dict[str, Any]:
    """What the report reads: the rates, and what a number must carry to be compared with another."""
    titles = scored.panel.titles
    metrics = {
        written: outputs.as_json(rates[metric]) | ({"judge": titles[metric]} if metric in titles else {})
        for metric, (written, _) in outputs.NAMES.items()
    }
    main = scored.panel.of("asr")
    return {
        "split": split,
        **metrics,
        "pictures": len({record.image_path for record in scored.records}),
        "by_category": scored.by("category"),
        "by_keyword": scored.by("keyword"),
        "protocol": options.protocol,
        "judge": main.name,
        "judge_model": main.model,
        "prompts": prompts.version(),
        "max_failed": options.max_failed,
        "category": options.category,
        "verdicts": str(_beside(options.output_file_rr, options.summary)),
        "data_file": str(options.file_refer),
        "versions": {
            "safeeraser": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("openai", "rouge-score")},
        },
    }


def beyond_the_paper(scored: Scored, reference: DataFile, paired: list[int]) -> dict[str, Any]:
    """What was asked for beside the paper's figures, printed, and as the summary holds it."""
    told: dict[str, Any] = {}
    if scored.options.refusals:
        refusals = scored.refusals()
        outputs.show_refusals(refusals)
        told["refusals"] = {view: outputs.as_json(rate) for view, rate in refusals.items()}
    if scored.options.recovered:
        rate = recovered(scored.predictions, reference, paired)
        outputs.show_recovered(rate)
        told["recovered"] = outputs.as_json(rate)
    return told


def inputs(options: Options, made_with: dict[str, Any] | None) -> dict[str, Any]:
    """What was scored, by its hash, and what the predictions were made with."""
    return {
        "predictions": {"file": options.input_file.name, "sha256": sha256(options.input_file)},
        "made_with": made_with,
        "reference": {"file": options.file_refer.name, "sha256": sha256(options.file_refer)},
    }


def conclude(rates: dict[str, Rate], panel: Panel) -> int:
    """Say what must be known of the figures; returns the exit code."""
    if skipped := {outputs.NAMES[metric][1]: rate.skipped for metric, rate in rates.items() if rate.skipped}:
        counts = ", ".join(f"{name} {count}" for name, count in skipped.items())
        print(f"note: no response to judge, so left out: {counts}", file=sys.stderr)
    if failures := panel.failures():
        print(f"note: judge calls failed ({failures}); the same command asks only those again", file=sys.stderr)
    withheld = [f"{outputs.NAMES[metric][1]} ({rate.withheld})" for metric, rate in rates.items() if rate.withheld]
    if withheld:
        print(f"error: withheld past --max_failed: {'; '.join(withheld)}", file=sys.stderr)
    return INCOMPLETE if withheld else 0


def _note_strangers(predictions: DataFile, reference: DataFile, paired: list[int]) -> None:
    pairs = zip(predictions.records, (reference.records[index] for index in paired), strict=True)
    differ = sum(record.image_path != original.image_path for record, original in pairs)
    if differ:
        print(
            f"note: {differ} of {len(paired)} records name another picture than the reference's record at the same "
            "position; protocol official pairs them all the same, --protocol corrected pairs by picture",
            file=sys.stderr,
        )


def _beside(path: Path, summary: Path) -> Path:
    """`path` as a reader of the summary finds it: by its name where they lie together."""
    return Path(path.name) if path.resolve().parent == summary.resolve().parent else path.resolve()
