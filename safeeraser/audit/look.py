"""A point that looks inside: what a model knows beyond what it says, of the questions that the other points ask."""

from collections import Counter
from functools import partial
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from safeeraser.audit.inside import Pair, floor, measured, passes, read_pairs
from safeeraser.audit.options import Options
from safeeraser.audit.points import Point
from safeeraser.audit.subjects import Subject, Subjects
from safeeraser.audit.values import FLOOR, INSIDE, estimate, values_at
from safeeraser.benchmark.files import write_json
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.infer.checkpoint import load_merged
from safeeraser.model import VLM
from safeeraser.model.loading import load_config
from safeeraser.processes import Processes


def look_inside(point: Point, options: Options, everyone: Subjects) -> dict[str, Any]:
    """Measure all that there is to, keep it item by item beside the point, and return the means.

    Of the untouched model the floor is measured too: what it gets for answers that are paired at random across
    keywords, where there is nothing to know. Where each record has questions of its own, such an answer is to another
    question as well, and a model that never knew would tell it from one to this; then only the floor of what is
    extracted stands.
    """
    data = read_records(options.val_file)
    pairs = read_pairs(data, options.selection(point.views).records(data), options.generation.seed)
    sets = {INSIDE: pairs} | ({FLOOR: floor(pairs)} if point.subject.name == "vanilla" else {})
    load = partial(_load, options=options)
    found = measured(partial(load, point.subject), partial(load, everyone["vanilla"]), sets)
    if FLOOR in found:
        found[FLOOR]["recovered"] = _unrelated(pairs)
        if not all(pair.content for pair in pairs) and not _asked_alike(data):
            found[FLOOR] = {name: of for name, of in found[FLOOR].items() if name.startswith("exact")}
    items = _items(data, pairs)
    for file, values in found.items():
        write_json(point.folder / file, {"items": items, "values": values}, indent=None)
    return {name: estimate(of, "number") for name, of in values_at(point, options).items()}


def read_beside(model_path: str, questions: int) -> int:
    """How many answers are read to look into a model."""
    return passes(questions, load_config(model_path).get_text_config().num_hidden_layers)


def _load(subject: Subject, options: Options) -> VLM:
    device = Processes.join().device
    return load_merged(subject.model_path, subject.adapter, dtype=options.dtype, lora_alpha=256, device=device)


def _items(data: DataFile, pairs: list[Pair]) -> dict[str, list[Any]]:
    """Each pair as verdicts know it: by its picture, its question, and which of the records with that picture."""
    seen: Counter[str] = Counter()
    turns = []
    for record in data.records:
        turns.append(seen[record.image_path])
        seen[record.image_path] += 1
    return {pair.key: [data.records[pair.record].image_path, pair.question, turns[pair.record]] for pair in pairs}


def _asked_alike(data: DataFile) -> bool:
    """Whether every record has the same questions."""
    return len({tuple(pair.question for pair in record.unsafe_pairs) for record in data.records}) == 1


def _unrelated(pairs: list[Pair]) -> dict[str, float | None]:
    """How much of each answer is in one to the same question of another keyword: ROUGE-L recall."""
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    return {pair.key: scorer.score(pair.true, pair.other)["rougeL"].recall for pair in pairs}
