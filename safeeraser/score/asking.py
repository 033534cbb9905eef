"""Read the predictions and the reference file of a run, pair their records, and make the queries to the judges."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from safeeraser.benchmark.adapters import described_by
from safeeraser.benchmark.files import read_json, sha256
from safeeraser.benchmark.metrics import METRICS
from safeeraser.benchmark.records import DataFile, Record, read_raw, read_records
from safeeraser.benchmark.responses import SWAPPED_PICTURE, VIEWS, fields_in
from safeeraser.errors import BadInput, note
from safeeraser.judge.judge import Query
from safeeraser.score.options import Options

_FIRST = VIEWS["forget"].fields[0]
_METRICS_OF = {view: [row.asked for row in METRICS.values() if row.asked and row.view == view] for view in VIEWS}


@dataclass(frozen=True)
class Inputs:
    """The data that a scoring run scores.

    Attributes:
        responses: every response, whether or not a judge is asked about it.
        queries: the queries of every metric, record by record, also about responses that are missing or blank.
        groups: attribute of records (`category`) -> the group of each record; empty where it is in none.
        files: the names and hashes of both files, and the record of how the predictions were made (None without one).
    """

    predictions: DataFile
    responses: list[Query]
    queries: list[Query]
    groups: dict[str, list[str]]
    files: dict[str, Any]


def read(options: Options) -> Inputs:
    """Read and pair the two files. Raises `BadInput` where one cannot be used, or they do not belong together."""
    if not options.input_file.exists():
        raise BadInput(f"--input_file {options.input_file}: no such file; ckpt_infer.py makes the predictions")
    predictions = read_records(options.input_file).only(options.category)
    reference = read_records(options.file_refer).only(options.category)
    beside = described_by(options.input_file)
    files = {
        "predictions": {"file": options.input_file.name, "sha256": sha256(options.input_file)},
        "made_with": read_json(beside) if beside.is_file() else None,
        "reference": {"file": options.file_refer.name, "sha256": sha256(options.file_refer)},
    }
    paired = pair_records(predictions, reference, by_picture=not options.judging.official)
    expected = [reference.records[index] for index in paired]
    pairs = list(zip(predictions.records, expected, strict=True))
    if differ := sum(record.image_path != original.image_path for record, original in pairs):
        note(
            f"{differ} of {len(paired)} records name another picture than the reference's record at the same "
            "position; protocol official pairs them all the same, --protocol corrected pairs by picture"
        )
    for index, (record, original) in enumerate(pairs):
        for key in record.unharm.keys() - original.unharm.keys():
            raise BadInput(f"{reference.where(paired[index], key)}: missing, and the predictions have it")
    groups = {name: [getattr(record, name) for record in predictions.records] for name in ("category", "keyword")}
    groups |= {"concept": concepts} if (concepts := find_held_out(groups["keyword"], options)) else {}
    return Inputs(predictions, *build_queries(predictions, expected, options.refusals), groups, files)


def find_held_out(keywords: list[str], options: Options) -> list[str]:
    """For each record of val, `shown` if its keyword occurs in the training file next to it, else `held-out`.

    Empty for train, without such a file, and where it has all keywords, as in the benchmark's own data.
    """
    training = options.file_refer.with_name(options.file_refer.name.replace("val", "train"))
    if options.split != "val" or training == options.file_refer or not training.is_file():
        return []
    shown = {raw.get("keyword") for raw in read_raw(training)}
    concepts = [keyword and ("shown" if keyword in shown else "held-out") for keyword in keywords]
    return concepts if "held-out" in concepts else []


def pair_records(predictions: DataFile, reference: DataFile, by_picture: bool) -> list[int]:
    """For each record of the predictions, the index of its record in the reference.

    The release pairs the two files by position and never checks; `by_picture` pairs them by `image_path`.

    Raises:
        BadInput: the files hold different numbers of records (by position) or different pictures (by picture).
    """
    ours, theirs = ([record.image_path for record in data.records] for data in (predictions, reference))
    if not by_picture:
        if len(ours) != len(theirs):
            raise BadInput(
                f"{predictions.path} has {len(ours)} records, {reference.path} has {len(theirs)}: "
                "these are not predictions on that file"
            )
        return list(range(len(ours)))
    if Counter(ours) != Counter(theirs):
        raise BadInput(
            f"{predictions.path} and {reference.path} hold different pictures: only in the predictions: "
            f"{_some(Counter(ours) - Counter(theirs))}; only in the reference: {_some(Counter(theirs) - Counter(ours))}"
        )
    # Records with the same picture are paired in the order in which they occur.
    first, second = (sorted(range(len(pictures)), key=pictures.__getitem__) for pictures in (ours, theirs))
    return [index for _, index in sorted(zip(first, second, strict=True))]


def _some(names: Counter[str], most: int = 5) -> str:
    more = f" and {names.total() - most} more" if names.total() > most else ""
    return (", ".join(islice(names.elements(), most)) or "none") + more


def build_queries(predictions: DataFile, expected: list[Record], refusals: bool) -> tuple[list[Query], list[Query]]:
    """Every response, and every query that judges may be asked.

    Args:
        expected: for each record of the predictions, its record in the reference.
        refusals: ask in every view that the file holds, not in `forget` alone, whether the responses refuse.

    Raises:
        BadInput: a response is not text, or the file holds no model's responses at all.
    """
    responses, queries = [], []
    for response in responses_in(predictions, expected):
        responses.append(response)
        text, place, fault = response.response, response.place, None
        if not isinstance(text, str | None):
            fault = f"must be a text, is a {type(text).__name__}"
        elif any("\ud800" <= character <= "\udfff" for character in text or ""):
            fault = "holds half a character (a lone surrogate), which no file can"
        if fault:
            inside = place if isinstance(place, str) else f"unsafe_pairs.{place}"
            raise BadInput(f"{predictions.where(response.record, f'{inside}.{response.field}')}: {fault}")
        metrics = _METRICS_OF[response.view]
        for metric in metrics if "rr" in metrics or not refusals else (*metrics, "rr"):
            question = response.question
            if metric == "gpt":
                question = expected[response.record].unharm[str(place)].Question
            queries.append(replace(response, metric=metric, question=question))
    if not any(_FIRST in pair for raw in predictions.raw for pair in raw["unsafe_pairs"]):
        raise BadInput(f"{predictions.path}: holds no {_FIRST}, so nothing to judge; run ckpt_infer.py first")
    return responses, queries


def responses_in(predictions: DataFile, expected: list[Record]) -> Iterator[Query]:
    """Every response as a query without a metric, record by record. Its reference is the vanilla model's answer, or the
    answer to a harmless question. A missing response is None in the views that judges decide on, else left out."""
    for index, (record, raw) in enumerate(zip(predictions.records, predictions.raw, strict=True)):
        swapped, number = raw.get(SWAPPED_PICTURE) or "", predictions.number(index)
        pictures = {"harmful": record.image_path, "benign": record.SDImage_path, "swapped": swapped, "none": ""}
        harmful = [(place, pair, pair["question"]) for place, pair in enumerate(raw["unsafe_pairs"])]
        harmless = [(key, raw[key], raw[key]["Question"]) for key in record.unharm]
        references: dict[int | str, str] = {key: pair.Prediction for key, pair in expected[index].unharm.items()}
        references |= {place: pair.model_response for place, pair in enumerate(expected[index].unsafe_pairs)}
        for name, view in VIEWS.items():
            for place, pair, question in harmful if view.question == "harmful" else harmless:
                for field in fields_in(name, pair):
                    if field in pair or _METRICS_OF[name]:
                        texts = (question, pair.get(field), references.get(place, ""))
                        about = (number, pictures[view.picture])
                        yield Query("", index, place, field, record.category, *texts, *about)


def imagine_queries(data: DataFile, refusals: bool) -> list[Query]:
    """Every query of a run that answers as the data file does, to estimate the cost of judging before inference.
    Each response is made a little different from the others, because equal responses are judged only once."""
    answered = []
    for index, raw in enumerate(data.raw):
        pairs = []
        for number, pair in enumerate(raw["unsafe_pairs"]):
            text = pair.get("model_response") or pair["question"]
            responses = {field: f"{text} ({index}.{number}.{field})" for field in VIEWS["forget"].fields}
            benign = f"{pair.get('sd_response') or pair['question']} ({index}.{number})"
            pairs.append(pair | responses | {"sd_response": benign})
        answered.append(raw | {"unsafe_pairs": pairs})
    _, queries = build_queries(DataFile(data.path, data.records, answered, data.numbers), data.records, refusals)
    return queries
