"""From a predictions file and its reference to what a judge is asked."""

from collections import defaultdict
from collections.abc import Iterator

from safeeraser.benchmark.records import UNHARM_KEYS, DataFile
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.judge.queries import Query

RESPONSES = VIEWS["forget"].fields


def pair_records(predictions: DataFile, reference: DataFile, by_picture: bool) -> list[int]:
    """For each record of the predictions, the index of its record in the reference.

    The release pairs the two files by position and never checks; `by_picture` pairs them by `image_path`.

    Raises:
        BadInput: the files hold different numbers of records (by position) or different pictures (by picture).
    """
    if not by_picture:
        if len(predictions.records) != len(reference.records):
            raise BadInput(
                f"{predictions.path} has {len(predictions.records)} records, {reference.path} has "
                f"{len(reference.records)}: these are not predictions on that file"
            )
        return list(range(len(predictions.records)))
    at = defaultdict(list)
    for index, record in enumerate(reference.records):
        at[record.image_path].append(index)
    paired, strangers = [], []
    for record in predictions.records:
        if at[record.image_path]:
            paired.append(at[record.image_path].pop(0))
        else:
            strangers.append(record.image_path)
    missing = [picture for picture, left in at.items() for _ in left]
    if strangers or missing:
        raise BadInput(
            f"{predictions.path} and {reference.path} hold different pictures: "
            f"only in the predictions: {_some(strangers)}; only in the reference: {_some(missing)}"
        )
    return paired


def build_queries(
    predictions: DataFile, reference: DataFile, paired: list[int], *, refusals: bool = False
) -> list[Query]:
    """Every query of every metric, in the file's order, responses that are missing or blank included.

    Args:
        refusals: ask of every view that the file holds, not of `forget` alone, whether its responses refuse.

    Raises:
        BadInput: a response is not text, or the file holds no model's responses at all.
    """
    queries = []
    for index, raw in enumerate(predictions.raw):
        record, original = predictions.records[index], reference.records[paired[index]]
        number = predictions.number(index)
        for place, pair in enumerate(raw["unsafe_pairs"]):
            for field in (*RESPONSES, "sd_response"):
                response = _text(predictions, index, pair, f"unsafe_pairs.{place}", field)
                for metric in ("sarr",) if field == "sd_response" else ("asr", "rr"):
                    text = pair["question"]
                    queries.append(Query(metric, index, place, field, record.category, text, response, number=number))
        for key in UNHARM_KEYS:
            response = _text(predictions, index, raw[key], key, "Prediction")
            expected = getattr(original, key)
            texts = (expected.Question, response, expected.Prediction, number)
            queries.append(Query("gpt", index, key, "Prediction", record.category, *texts))
        if refusals:
            queries += _refusals(predictions, index)
    if not any(RESPONSES[0] in pair for raw in predictions.raw for pair in raw["unsafe_pairs"]):
        raise BadInput(f"{predictions.path}: holds no model_response1, so nothing to judge; run ckpt_infer.py first")
    return queries


def _refusals(predictions: DataFile, index: int) -> Iterator[Query]:
    """Whether the responses of one record refuse, in every view but `forget`."""
    raw, record = predictions.raw[index], predictions.records[index]
    pairs = [(place, raw["unsafe_pairs"][place], pair.question) for place, pair in enumerate(record.unsafe_pairs)]
    unharm = [(key, raw[key], pair.Question) for key, pair in zip(UNHARM_KEYS, record.unharm_pairs, strict=True)]
    for name, view in VIEWS.items():
        if name == "forget":
            continue
        for place, holder, question in pairs if view.question == "harmful" else unharm:
            inside = f"unsafe_pairs.{place}" if isinstance(place, int) else place
            for field in filter(holder.__contains__, view.fields):
                response = _text(predictions, index, holder, inside, field)
                yield Query(
                    "rr", index, place, field, record.category, question, response, number=predictions.number(index)
                )


def _text(data: DataFile, index: int, holder: dict, inside: str, field: str) -> str | None:
    value = holder.get(field)
    if value is not None and not isinstance(value, str):
        raise BadInput(f"{data.where(index, f'{inside}.{field}')}: must be a text, is a {type(value).__name__}")
    return value


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more
