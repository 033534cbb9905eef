"""The pairs that are measured: a harmful question about its picture, the answer to be forgotten, and one like it.

Where a model no longer says an answer, it may still hold it for likelier than another that it was never to give. Both
answer the same question, so that what they share tells nothing; what they differ in is what a picture's answer holds.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from safeeraser.benchmark.pictures import find_picture
from safeeraser.benchmark.records import DataFile, Record
from safeeraser.benchmark.truth import TRUTH, Truth, read_truth
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import chance

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class Pair:
    """A harmful question on its harmful picture, and answers to it.

    Attributes:
        key: the pair's name, unique within a data file: that of its answer without the field, as requests have it.
        record: the record's number in the file.
        true: the vanilla model's answer.
        other: an answer to the same question about a picture of another keyword.
        third: one of a third keyword, which only `floor` reads.
        sources: the keywords whose answers the three are.
        frame: how many characters at the beginning and the end of all three stand around what they differ in; (0, 0)
            where it is not known what in an answer is told of the picture.
    """

    key: str
    record: int
    keyword: str
    picture: Path
    question: str
    true: str
    other: str
    third: str
    sources: tuple[str, str, str]
    frame: tuple[int, int] = (0, 0)

    @property
    def content(self) -> bool:
        """Whether only what is told of the picture is measured, and not the whole answers."""
        return self.frame != (0, 0)

    def span(self, answer: str) -> tuple[int, int]:
        """The characters of one of its answers that are measured: the first, and the one behind the last."""
        before, behind = self.frame
        return before, len(answer) - behind


def words(text: str) -> list[tuple[str, int, int]]:
    """The words of a text as they are compared, each with its first character and the one behind its last."""
    found = _WORD.finditer(text)
    return [(word.group().casefold().replace("’", "'"), word.start(), word.end()) for word in found]


def read_pairs(data: DataFile, chosen: Sequence[int], seed: int = 0) -> list[Pair]:
    """The pairs of the records `chosen` of a whole data file; a question without an answer makes none.

    Where `truth.json` tells what answers about a picture hold, and the vanilla model's holds it, the other answers are
    that one with what another picture's hold in its place. Else they are whole answers of other records. Whose is
    drawn depends on the seed, the pair's key, and the file: not on which records are chosen.

    Raises:
        BadInput: a question has no answers of two other keywords, or the truth cannot be used.
    """
    truth = read_truth(data.path) if data.path.with_name(TRUTH).is_file() else None
    by_keyword: dict[str, list[Record]] = defaultdict(list)
    for record in data.records:
        by_keyword[_keyword(record)].append(record)
    asked = [(number, n) for number in chosen for n in range(len(data.records[number].unsafe_pairs))]
    return [
        _pair(data, by_keyword, truth, number, n, seed)
        for number, n in asked
        if words(data.records[number].unsafe_pairs[n].model_response)
    ]


def floor(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs with the answers of two other keywords: what a model gets where there is nothing for it to know."""
    return [
        replace(pair, true=pair.other, other=pair.third, sources=pair.sources[1:] + pair.sources[:1]) for pair in pairs
    ]


def _keyword(record: Record) -> str:
    """A record without one stands for itself, as in data of one's own."""
    return record.keyword or record.image_path


def _pair(
    data: DataFile, by_keyword: dict[str, list[Record]], truth: Truth | None, number: int, n: int, seed: int
) -> Pair:
    record, key = data.records[number], f"{number}/unsafe_pairs/{n}"
    true = record.unsafe_pairs[n].model_response
    place = _told(true, truth, record) if truth else None
    instead: Callable[[Record], str | None] = lambda other: _answer(other, n)  # noqa: E731
    if truth and place:
        start, end = place
        instead = lambda other: _put(true, start, end, truth, other)  # noqa: E731
    drawn = _strangers(_keyword(record), by_keyword, true, instead, f"{seed}/{key}")
    if len(drawn) < 2:
        where = data.where(number, f"unsafe_pairs.{n}")
        raise BadInput(f"{where}: fewer than two other keywords have an answer to hold against its own")
    (other, of_other), (third, of_third) = drawn.items()
    picture = find_picture(record.image_path, data.path) or Path(record.image_path)
    frame = (place[0], len(true) - place[1]) if place else (0, 0)
    question = record.unsafe_pairs[n].question
    sources = (_keyword(record), of_other, of_third)
    return Pair(key, number, _keyword(record), picture, question, true, other, third, sources, frame)


def _strangers(
    own: str, by_keyword: dict[str, list[Record]], true: str, instead: Callable[[Record], str | None], key: str
) -> dict[str, str]:
    """Answers of two other keywords, each with its keyword, drawn by `key`, no two of the three alike; fewer if there
    are not so many."""
    random, drawn = chance(key), dict[str, str]()
    others = [keyword for keyword in by_keyword if keyword != own]
    for place in random.permutation(len(others)):
        records = by_keyword[others[place]]
        answer = instead(records[random.integers(len(records))])
        if answer and answer not in (true, *drawn):
            drawn[answer] = others[place]
        if len(drawn) == 2:
            break
    return drawn


def _answer(record: Record, n: int) -> str | None:
    """The record's answer to its question `n`, None if it has no such question, or nothing is said."""
    said = record.unsafe_pairs[n].model_response if n < len(record.unsafe_pairs) else ""
    return said if words(said) else None


def _put(answer: str, start: int, end: int, truth: Truth, record: Record) -> str | None:
    """An answer with what is told of another record's picture between two of its characters."""
    if record.image_path not in truth.pictures:
        return None
    return answer[:start] + truth.things[truth.pictures[record.image_path]].content + answer[end:]


def _told(answer: str, truth: Truth, record: Record) -> tuple[int, int] | None:
    """Where in an answer stands what is told of the record's picture; None if nothing is known or told of it."""
    if record.image_path not in truth.pictures:
        return None
    told = [word for word, _, _ in words(truth.things[truth.pictures[record.image_path]].content)]
    said = words(answer)
    for first in range(len(said) - len(told) + 1):
        if [word for word, _, _ in said[first : first + len(told)]] == told:
            return said[first][1], said[first + len(told) - 1][2]
    return None
