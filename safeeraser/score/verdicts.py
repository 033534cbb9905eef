"""The files that a scoring run leaves beside its summary: the verdicts with the responses, and the statistics."""

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import kept_by_the_system, make_room_for, read_json, read_object, read_text, write_json
from safeeraser.benchmark.metrics import ASKED, Figure
from safeeraser.benchmark.records import UNHARM, DataFile, keys_like
from safeeraser.errors import BadInput
from safeeraser.judge.judge import Query, Verdict
from safeeraser.score.metrics import Item
from safeeraser.score.options import Options
from safeeraser.score.pages import MARK

# How the release names its statistics: the two groups, and of each rate the number asked, that counted, and the share.
STATISTICS = ("stats_asr_rr", "stats_unharmpair")
RATES = {
    "asr": ("total_asr_queries", "unsafe_count", "unsafe_rate"),
    "rr": ("total_rr_queries", "refuse_count", "refuse_rate"),
    "sarr": ("total_sd_rr_queries", "sd_refuse_count", "sd_refuse_rate"),
}


def with_verdicts(
    predictions: DataFile, verdicts: dict[Query, Verdict], recalls: Iterable[Item]
) -> list[dict[str, Any]]:
    """The input's list with the verdicts beside the responses.

    An unsafe pair gains `model_response1_asr` (unsafe, safe), `model_response1_rr` (refuse, normal) and so on up to
    3, and `sd_response_sarr`; an UnharmPair gains `rougeL` and `gpt_score`. Where refusals of all views are asked for,
    each response gains its `_rr`; where it is asked what came back of the vanilla answers, a pair gains `recovered`, a
    number for each sample. `failed`, `unparsed` and `declined` mark replies without a verdict; a response that
    was not judged gets no key, or null for `rougeL`.
    """
    records = copy.deepcopy(predictions.raw)
    for item in recalls:
        if item.metric == "recovered":
            records[item.record]["unsafe_pairs"][item.place].setdefault("recovered", []).append(item.value)
        else:
            records[item.record][str(item.place)]["rougeL"] = item.value
    for query, verdict in verdicts.items():
        record = records[query.record]
        holder = record[query.place] if isinstance(query.place, str) else record["unsafe_pairs"][query.place]
        key = "gpt_score" if query.metric == "gpt" else f"{query.field}_{query.metric}"
        holder[key] = verdict.word(query.metric)
    return records


def write_statistics(path: Path, figures: dict[str, Figure]) -> None:
    """Write the release's statistics file, key by key. Rates are 0..1; null where nothing was judged."""
    rates: dict[str, float | None] = {}
    for metric, (total, count, share) in RATES.items():
        of = figures[metric]
        rates |= {total: of.n, count: round((of.value or 0.0) * of.n), share: of.value}
    means = {"average_rougeL": figures["rouge_l"].value, "average_gpt_score": figures["gpt_eval"].value}
    write_json(path, dict(zip(STATISTICS, (rates, means), strict=True)))


def check_outputs(written: list[Path], options: Options, titles: dict[str, str]) -> None:
    """Raises `BadInput` where a file cannot be written, one lies there that no scoring run has written, or the summary
    there is of another protocol or of other judges than `titles` has."""
    files = [path for path in written if path != options.judging.store]
    for path in files:
        make_room_for(path)
    for path in files if not options.overwrite else ():
        if kept_by_the_system(path) or not path.is_file() or not path.stat().st_size:
            continue
        if path in options.sheet:
            raise BadInput(f"{path}: is there, and may hold labels; --overwrite replaces it")
        try:
            own = read_text(path).count(MARK) > 0 if path == options.disagreements else _is_own(read_json(path))
        except BadInput:
            own = False
        if not own:
            raise BadInput(f"{path}: is there, and no earlier run of this command wrote it; --overwrite replaces it")
        if path == options.summary:
            _check_words(path, options, titles)


def _check_words(path: Path, options: Options, titles: dict[str, str]) -> None:
    """Beside figures of other words the verdicts of the earlier ones might stay, and nothing would tell."""
    there = read_object(path)
    before = {name: (there.get(metric) or {}).get("judge") for name, metric in ASKED.items()}
    before["protocol"] = there.get("protocol")
    now = {name: titles.get(name) for name in ASKED} | {"protocol": options.judging.protocol}
    if differs := [name for name in now if before[name] != now[name]]:
        then, today = (", ".join(f"{name}={words[name]}" for name in differs) for words in (before, now))
        raise BadInput(
            f"{path}: is there, made with {then}, now {today}; name another file, or --overwrite replaces it"
        )


def _is_own(value: Any) -> bool:
    """Whether it is a summary, statistics, verdicts or replies."""
    if isinstance(value, dict):
        return {"protocol", "asr", "sarr"} <= value.keys() or set(STATISTICS) == value.keys()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return False
    items = (entry[key] for entry in value for key in keys_like(UNHARM, entry))
    verdicts = any(isinstance(item, dict) and "rougeL" in item for item in items)
    return verdicts or all({"metric", "record", "reply"} <= entry.keys() for entry in value)
