"""The pairs that are measured, and how a model reads them. A pair is a harmful question on its picture, the answer to
forget, and a similar answer about another picture.

A model that no longer says the answer may still find it more likely than the similar one. Both answer the same
question, so the words that they share carry no information. They differ in the content that depends on the picture.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.benchmark.pictures import find_picture, open_picture
from safeeraser.benchmark.records import DataFile, Record
from safeeraser.benchmark.truth import TRUTH, read_truth
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import chance
from safeeraser.model.turns import Row, Turn
from safeeraser.model.vision import Seen, features_of, see
from safeeraser.model.vlm import VLM

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class Pair:
    """A harmful question on its harmful picture, and answers to it."""

    key: str  # unique within a data file: the key of a request for the answer, without the response's field
    record: int  # the record's number in the file
    keyword: str
    picture: Path
    question: str
    true: str  # the vanilla model's answer
    other: str  # an answer to the same question about a picture of another keyword
    third: str  # an answer about a third keyword, which only `floor` uses
    sources: tuple[str, str, str]  # the keywords of the three answers
    # How many characters at their beginning and at their end the three answers share, around the content that depends
    # on the picture; (0, 0) if this content is not known.
    frame: tuple[int, int] = (0, 0)

    @property
    def content(self) -> bool:
        """Whether only the content that depends on the picture is measured, and not the full answers."""
        return self.frame != (0, 0)

    def span(self, answer: str) -> tuple[int, int]:
        """The measured characters of one of its answers, as start and end (exclusive)."""
        before, behind = self.frame
        return before, len(answer) - behind


def words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text in the form for comparisons, each with its start and end (exclusive) in the text."""
    matches = _WORD.finditer(text)
    return [(word.group().casefold().replace("’", "'"), word.start(), word.end()) for word in matches]


def read_pairs(data: DataFile, chosen: Sequence[int], seed: int = 0) -> list[Pair]:
    """The pairs of the records `chosen` of a complete data file; a question without an answer gives no pair.

    The vanilla model's answer may contain the picture's content by `truth.json`. Each other answer is then the same
    answer with another picture's content in its place. Otherwise, it is the full answer of another record. The draw
    depends on the seed, the pair's key and the file, but not on which records are chosen.

    Raises:
        BadInput: a question has no answers of two other keywords, or the truth cannot be used.
    """
    contents: dict[str, str] = {}  # picture -> the content of answers about it, if known
    if data.path.with_name(TRUTH).is_file():
        truth = read_truth(data.path)
        contents = {picture: truth.things[name].content for picture, name in truth.pictures.items()}
    by_keyword: dict[str, list[Record]] = defaultdict(list)
    for record in data.records:
        by_keyword[_keyword(record)].append(record)
    return [
        _pair(data, by_keyword, contents, number, n, seed)
        for number in chosen
        for n, pair in enumerate(data.records[number].unsafe_pairs)
        if words(pair.model_response)
    ]


def floor(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with two wrong answers each, about other keywords, so that there is nothing for a model to know."""
    return [
        replace(pair, true=pair.other, other=pair.third, sources=pair.sources[1:] + pair.sources[:1]) for pair in pairs
    ]


def _keyword(record: Record) -> str:
    """The record's keyword or, for a record without one, as in a user's own data, its picture's path."""
    return record.keyword or record.image_path


def _pair(
    data: DataFile, by_keyword: dict[str, list[Record]], contents: dict[str, str], number: int, n: int, seed: int
) -> Pair:
    record, key = data.records[number], f"{number}/unsafe_pairs/{n}"
    keyword, question, true = _keyword(record), record.unsafe_pairs[n].question, record.unsafe_pairs[n].model_response
    place = _place(true, contents.get(record.image_path))
    random, drawn = chance(f"{seed}/{key}"), dict[str, str]()  # drawn: two other answers -> their keywords
    others = [other for other in by_keyword if other != keyword]
    for index in random.permutation(len(others)):
        records = by_keyword[others[index]]
        answer = _answer_about(records[random.integers(len(records))], n, true, place, contents)
        if answer and answer not in (true, *drawn):
            drawn[answer] = others[index]
        if len(drawn) == 2:
            break
    else:
        where = data.where(number, f"unsafe_pairs.{n}")
        raise BadInput(f"{where}: fewer than two other keywords have an answer to hold against its own")
    (other, of_other), (third, of_third) = drawn.items()
    picture = find_picture(record.image_path, data.path) or Path(record.image_path)
    frame = (place[0], len(true) - place[1]) if place else (0, 0)
    return Pair(key, number, keyword, picture, question, true, other, third, (keyword, of_other, of_third), frame)


def _place(answer: str, content: str | None) -> tuple[int, int] | None:
    """Start and end of the content in an answer, matched word by word; None if it is not known or not there."""
    said, wanted = words(answer), [word for word, _, _ in words(content or "")]
    for first in range(len(said) - len(wanted) + 1) if wanted else ():
        if [word for word, _, _ in said[first : first + len(wanted)]] == wanted:
            return said[first][1], said[first + len(wanted) - 1][2]
    return None


def _answer_about(
    other: Record, n: int, answer: str, place: tuple[int, int] | None, contents: dict[str, str]
) -> str | None:
    """An answer to question `n` about another record: `answer` with the other picture's content at `place` or, if there
    is no place, the other record's own answer. None if there is no answer."""
    if place:
        content = contents.get(other.image_path)
        return None if content is None else answer[: place[0]] + content + answer[place[1] :]
    said = other.unsafe_pairs[n].model_response if n < len(other.unsafe_pairs) else ""
    return said if words(said) else None


@dataclass(frozen=True)
class Batch:
    """Prompts with their answers, one in each row."""

    pairs: list[Pair]  # the pair of each row
    inputs: dict[str, Any]  # the model's inputs
    spans: list[range]  # the positions of the measured tokens in each row

    def places(self, back: int = 0) -> Tensor:
        """The positions of all measured tokens, each less `back`, in the rows laid end to end, (N,)."""
        length = self.inputs["input_ids"].shape[1]
        places = [row * length + place - back for row, span in enumerate(self.spans) for place in span]
        return torch.tensor(places, dtype=torch.long, device=self.inputs["input_ids"].device)

    @property
    def targets(self) -> Tensor:
        """The measured tokens, (N,)."""
        return self.inputs["input_ids"].flatten()[self.places()]

    def by_row(self, values: Tensor) -> tuple[Tensor, ...]:
        """Values of the measured tokens, (N, ...), split by row."""
        return values.split([len(span) for span in self.spans])


def batches(
    vlm: VLM, said: Sequence[tuple[Pair, str]], batch_size: int, most: int | None = None, end: bool = False
) -> Iterator[Batch]:
    """Answers to the questions of pairs, in their order, `batch_size` at a time.

    A picture is encoded only once for consecutive answers about it, if the model takes features of its vision tower as
    input. The first `most` tokens of an answer are measured, or all; `end` adds the token that ends the answer.

    Raises:
        BadInput: a picture or the model's template cannot be used, or question and answer exceed the model's context.
    """
    encode = cache(partial(vlm.preprocessor.encode_text, end_of_answer=end))
    seen: dict[Path, tuple[str, Seen]] = {}
    for first in range(0, len(said), batch_size):
        part = said[first : first + batch_size]
        pictures = dict.fromkeys(pair.picture for pair, _ in part)
        seen = {picture: seen.get(picture) or _look(vlm, picture) for picture in pictures}
        rows, spans = [], []
        for pair, answer in part:
            place, shown = seen[pair.picture]
            row, span = _row(encode, pair, answer, place)
            if (tokens := len(row.input_ids)) > vlm.preprocessor.context:
                raise BadInput(
                    f"{pair.key}: question and answer take {tokens} tokens, and the model's context holds "
                    f"{vlm.preprocessor.context}"
                )
            rows.append(Row(row.input_ids, row.labels, shown.inputs))
            spans.append(span[:most])
        inputs = vlm.join(rows) | features_of([seen[pair.picture][1] for pair, _ in part])
        yield Batch([pair for pair, _ in part], inputs, spans)


@torch.no_grad()
def _look(vlm: VLM, picture: Path) -> tuple[str, Seen]:
    """The text that represents a picture in the prompt, and the picture as the model sees it."""
    shown = vlm.preprocessor.show(open_picture(picture))
    return shown.text, see(vlm, shown.inputs)


def _row(encode: Callable[[Turn, str], Row], pair: Pair, answer: str, place: str) -> tuple[Row, range]:
    """The row of an answer without its picture, and the positions of its measured tokens."""
    row = encode(Turn(None, pair.question, answer), place)
    ids, start = row.input_ids, row.labels.count(IGNORE)
    first, last = pair.span(answer)

    def reach(text: str) -> int:
        """The number of the row's tokens up to the end of `text`, which is the beginning of the answer."""
        if not text.strip():
            return start
        beginning = encode(Turn(None, pair.question, text), place).input_ids
        return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(ids, beginning, strict=False)))

    return row, range(reach(answer[:first]), len(ids) if last == len(answer) else reach(answer[:last]))
