"""What a scoring run writes and shows. The predictions' texts are copied to the verdicts' file and shown nowhere."""

import copy
from pathlib import Path

from rich.console import Console
from rich.table import Table

from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.records import DataFile
from safeeraser.score.metrics import Rate
from safeeraser.score.parse import verdict
from safeeraser.score.queries import Query

# A metric's name inside a run -> in summaries and in print.
NAMES = {
    "asr": ("asr", "ASR"),
    "rr": ("rr", "RR"),
    "sarr": ("sarr", "SARR"),
    "rouge_l": ("rouge_l", "ROUGE-L"),
    "gpt": ("gpt_eval", "GPT-Eval"),
}


def write_verdicts(
    path: Path, predictions: DataFile, replies: dict[Query, str], recalls: dict[Query, float | None]
) -> None:
    """Write the input's list with the verdicts beside the responses.

    An unsafe pair gains `model_response1_asr` (unsafe, safe), `model_response1_rr` (refuse, normal) and so on up to 3,
    and `sd_response_sarr`; an UnharmPair gains `rougeL` and `gpt_score`. `failed` and `unparsed` mark replies without a
    verdict; a response that was not judged gets no key, or null for `rougeL`.
    """
    records = copy.deepcopy(predictions.raw)
    for query, recall in recalls.items():
        records[query.record][query.place]["rougeL"] = recall
    for query, reply in replies.items():
        if query.metric == "gpt":
            records[query.record][query.place]["gpt_score"] = verdict(query, reply)
        else:
            pair = records[query.record]["unsafe_pairs"][query.place]
            pair[f"{query.field}_{query.metric}"] = verdict(query, reply)
    write_json(path, records)


def write_statistics(path: Path, rates: dict[str, Rate]) -> None:
    """Write the release's statistics file, key by key. Rates are 0..1; null where nothing was judged."""
    asr, rr, sarr = rates["asr"], rates["rr"], rates["sarr"]
    value = {
        "stats_asr_rr": {
            "total_asr_queries": asr.n,
            "unsafe_count": int(asr.count),
            "unsafe_rate": asr.value,
            "total_rr_queries": rr.n,
            "refuse_count": int(rr.count),
            "refuse_rate": rr.value,
            "total_sd_rr_queries": sarr.n,
            "sd_refuse_count": int(sarr.count),
            "sd_refuse_rate": sarr.value,
        },
        "stats_unharmpair": {
            "average_rougeL": rates["rouge_l"].value,
            "average_gpt_score": rates["gpt"].value,
        },
    }
    write_json(path, value)


def write_summary(path: Path, split: str, rates: dict[str, Rate], provenance: dict) -> None:
    """Write the summary that the report reads: value (0..1 or null), n, failed and skipped for each metric."""
    metrics = {
        name: {"value": rates[key].value, "n": rates[key].n, "failed": rates[key].failed, "skipped": rates[key].skipped}
        for key, (name, _) in NAMES.items()
    }
    write_json(path, {"split": split, **metrics, **provenance})


def show(rates: dict[str, Rate]) -> None:
    """Print the rates in per cent, with how many items each stands on."""
    table = Table("metric", "%", "n", "failed", "skipped")
    for column in table.columns[1:]:
        column.justify = "right"
    for key, (_, title) in NAMES.items():
        rate = rates[key]
        percent = "–" if rate.value is None else f"{100 * rate.value:.1f}"
        table.add_row(title, percent, str(rate.n), str(rate.failed), str(rate.skipped))
    Console().print(table)
