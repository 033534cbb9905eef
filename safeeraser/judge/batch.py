"""Calls through OpenAI's Batch API: half the price, and the answers come within a day.

A day is long enough for any run to be stopped. So a submission is written down beside the store before it is made, with
a tag that the server keeps as well: the next run finds the one or the other, and waits on instead of paying twice.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from datetime import timedelta
from glob import escape
from io import BytesIO
from typing import Any, NamedTuple

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.judge.batch_api import ENDPOINT, BatchApi, State
from safeeraser.judge.store import Store
from safeeraser.replies import Failure, Reply

MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # in a batch, by the API
POLL, SLOWER, LONGEST_POLL = 30.0, 1.2, 300.0  # seconds between looks at first, how they grow, and up to what

Calls = Iterable[tuple[str, Callable[[], dict[str, Any]]]]
Outcomes = Iterator[tuple[str, Reply | Failure]]


class Submission(NamedTuple):
    """A batch as it is written down. Without an id it may have reached the server or not."""

    tag: str
    id: str | None
    at: float  # Unix time
    requests: list[str]  # the keys of those that no run has taken the outcome of


class BatchChat(BatchApi):
    """Answers the calls that `Chat` does, a batch at a time; the submissions are written down beside `store`."""

    def __init__(self, model: str, *, store: Store, **server: Any) -> None:
        super().__init__(model, **server)
        self._store = store

    def ask(self, calls: Calls) -> Generator[tuple[str, Reply | Failure], None, None]:
        """Yield each call's outcome, batch by batch as they end. The keys must name the requests for good.

        What ends this early leaves the batches to the server.

        Raises:
            BadInput: as `Chat.ask`; or the server has no Batch API, or the disk does not take the notes.
        """
        wanted, waiting = dict(calls), []
        try:
            for submission in self._written_down(wanted.keys()):
                waiting.append(submission)
            submitted = {key for submission in waiting for key in submission.requests}
            for submission in self._submit((key, make) for key, make in wanted.items() if key not in submitted):
                waiting.append(submission)
            self._store.release()  # a day is too long to keep others from the store
            yield from self._wait(waiting, wanted.keys())
        except (KeyboardInterrupt, GeneratorExit):
            if waiting:
                names = ", ".join(str(submission.id) for submission in waiting)
                _say(f"the server goes on with batch {names}; the same command waits for it again")
            raise

    def _written_down(self, wanted: Set[str]) -> Iterator[Submission]:
        """What earlier runs submitted of it."""
        store = self._store.path
        for path in sorted(store.parent.glob(f"{escape(store.name)}.batch-*.json")):
            try:
                submission = Submission(**read_json(path))
            except TypeError:
                raise BadInput(f"{path}: not what this program writes of a batch; move it away") from None
            if wanted.isdisjoint(submission.requests):
                continue
            if submission.id:
                try:
                    self.look(submission.id)  # before anything more is submitted
                except BadInput as error:
                    raise BadInput(
                        f"{error}; it is noted in {path}: without that file its requests are submitted again"
                    ) from None
            if found := submission.id or self.find(submission.tag):
                yield self._write_down(submission._replace(id=found))
            else:
                path.unlink(missing_ok=True)

    def _write_down(self, submission: Submission) -> Submission:
        note = self._store.path.with_name(f"{self._store.path.name}.batch-{submission.tag}.json")
        if submission.requests:
            write_json(note, submission._asdict(), indent=None)
        else:
            note.unlink(missing_ok=True)
        return submission

    def _submit(self, calls: Calls) -> Iterator[Submission]:
        for keys, lines in self._parts(calls):
            tag = uuid.uuid4().hex
            uploaded = self.upload(tag, lines)
            submission = self._write_down(Submission(tag, None, time.time(), keys))
            submission = submission._replace(id=self.create(tag, uploaded))
            _say(f"batch {submission.id} submitted: {len(keys)} requests")
            yield self._write_down(submission)

    def _parts(self, calls: Calls) -> Iterator[tuple[list[str], BytesIO]]:
        """The keys of one batch after another, and the lines of their requests."""
        keys, lines = [], BytesIO()
        for key, make in calls:
            body = {"model": self._model, **make()}
            body |= body.pop("extra_body", {})  # which the client would put into the body
            line = json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"
            if keys and (len(keys) == MOST_REQUESTS or lines.tell() + len(line) > MOST_BYTES):
                yield keys, lines
                keys, lines = [], BytesIO()
            keys.append(key)
            lines.write(line)
        if keys:
            yield keys, lines

    def _wait(self, waiting: list[Submission], wanted: Set[str]) -> Outcomes:
        pause, told = POLL, {}
        while True:
            for submission in list(waiting):
                state = self.look(submission.id)
                if state.ended:
                    waiting.remove(submission)
                    yield from self._collect(submission, state, wanted)
                elif told.get(submission.id) != state.done:
                    told[submission.id] = state.done
                    since = timedelta(seconds=round(time.time() - submission.at))
                    _say(f"batch {submission.id}: {state.done} of {len(submission.requests)} done after {since}")
            if not waiting:
                return
            time.sleep(pause)
            pause = min(pause * SLOWER, LONGEST_POLL)

    def _collect(self, submission: Submission, state: State, wanted: Set[str]) -> Outcomes:
        left = wanted & set(submission.requests)
        for key, outcome in self.outcomes(state):
            if key in left:
                left.remove(key)
                yield key, outcome
        if left:
            why = "it holds more tokens than may wait on this account: judge by --category or without --batch"
            why = why if state.too_much else "the same command submits them again"
            _say(f"batch {submission.id} {state.status}, without an answer to {len(left)} requests; {why}")
        for key in left:
            yield key, Failure(f"unanswered (batch {state.status})", request_at_fault=False)
        others = set(submission.requests) - wanted
        self._write_down(submission._replace(requests=sorted(others - self._store.find(others).keys())))


def _say(what: str) -> None:
    print(f"note: {what}", file=sys.stderr)
