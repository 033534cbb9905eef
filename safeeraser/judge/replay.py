"""Recorded replies: a judge that repeats what another one said, and the file it reads."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.judge.judges import Judge, Judging
from safeeraser.judge.panel import Panel
from safeeraser.judge.queries import Query
from safeeraser.judge.verdicts import WHOLE, Verdict, read


class _Recorded(BaseModel):
    """A reply, and what it was given to: `pair` and `response`, or for `gpt` an `item`.

    `on` is the text's hash, which files from elsewhere need not have.
    """

    metric: Literal["asr", "rr", "sarr", "gpt"]
    record: int
    place: int | str = Field(validation_alias=AliasChoices("pair", "item"))
    field: str = Field("Prediction", validation_alias="response")
    reply: str
    finish: str | None = None
    on: str | None = None


class ReplayJudge(Judge):
    """Answers from a file of recorded replies; it decides every metric the file covers."""

    name = "replay"

    def __init__(self, judging: Judging) -> None:
        path = judging.replies
        if path is None:
            raise BadInput("--judge replay needs --replies FILE, the recorded replies")
        try:
            replies = TypeAdapter(list[_Recorded]).validate_python(read_json(path))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise BadInput(f"{path}: entry {first['loc'][0] if first['loc'] else ''}: {first['msg']}") from None
        self._path, self._official = path, judging.official
        self.decides = frozenset(entry.metric for entry in replies)
        self._replies = {(entry.metric, entry.record, entry.place, entry.field): entry for entry in replies}

    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its recorded reply's verdict.

        Raises:
            BadInput: naming the first query that has none, or whose response is another than the reply was given on.
        """
        for query in queries:
            if query.key not in self._replies:
                raise BadInput(f"{self._path}: no reply for {query.where}")
            entry = self._replies[query.key]
            if entry.on not in (None, response_hash(query)):
                raise BadInput(f"{self._path}: the reply for {query.where} was given on another response")
            reading = read(query.metric, entry.reply, entry.finish, official=self._official)
            yield query, Verdict(entry.reply, *reading, finish=entry.finish)


def write_replies(path: Path, verdicts: dict[Query, Verdict], panel: Panel) -> None:
    """Write replies so that `ReplayJudge` reads them: what was asked about, the raw reply, and why it ended if not
    because it was whole; of the response its hash alone, unless the reply was itself a recorded one.
    """
    entries = []
    for query, verdict in verdicts.items():
        if not verdict.asked:
            continue
        place = {"item": query.place} if query.metric == "gpt" else {"pair": query.place, "response": query.field}
        finish = {} if verdict.finish in WHOLE else {"finish": verdict.finish}
        entries.append({"metric": query.metric, "record": query.number, **place, "reply": verdict.reply, **finish})
        if panel.by_metric[query.metric].name != ReplayJudge.name:
            entries[-1]["on"] = response_hash(query)
    write_json(path, entries, indent=1)


def response_hash(query: Query) -> str:
    """By which a response is known again without being told."""
    return hashlib.sha256(query.text.encode()).hexdigest()[:16]
