"""Calls through OpenAI's Batch API: half the price, and the answers come within a day.

A day is long enough for any run to be stopped. So a submission is written down beside the store before it is made, with
a tag that the server keeps as well: the next run finds the one or the other, and waits on instead of paying twice.
"""

import json
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from glob import escape
from typing import IO, Any, NamedTuple

from safeeraser.benchmark.files import make_room_for, read_json, write_json
from safeeraser.errors import BadInput
from safeeraser.judge.batch_api import ENDPOINT, BatchApi, State, empty
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


class BatchChat:
    """Answers the calls that `Chat` does, a batch at a time.

    Args:
        store: where the outcomes go; the submissions are written down in files beside it.
        server: what `Chat` takes.
    """

    def __init__(self, model: str, *, store: Store, **server: Any) -> None:
        self._api = BatchApi(model, **server)
        self._model, self._store, self._beside, self.address = model, store, store.path, self._api.address

    def ask(self, calls: Calls) -> Generator[tuple[str, Reply | Failure], None, None]:
        """Yield each call's outcome, batch by batch as they end. The keys must name the requests for good.

        What ends this early leaves the batches to the server.

        Raises:
            BadInput: as `Chat.ask`; or the server has no Batch API, or the disk does not take the files.
        """
        wanted, waiting = dict(calls), []
        try:
            for submission in self._written_down(wanted):
                waiting.append(submission)
            submitted = {key for submission in waiting for key in submission.requests}
            for submission in self._submit((key, make) for key, make in wanted.items() if key not in submitted):
                waiting.append(submission)
            self._store.release()  # a day is too long to keep others from the store
            yield from self._wait(waiting, wanted)
        except (KeyboardInterrupt, GeneratorExit):
            if waiting:
                names = ", ".join(str(submission.id) for submission in waiting)
                _say(f"the server goes on with batch {names}; the same command waits for it again")
            raise

    def _written_down(self, wanted: Collection[str]) -> Iterator[Submission]:
        """What earlier runs submitted of it."""
        for path in sorted(self._beside.parent.glob(f"{escape(self._beside.name)}.batch-*.json")):
            try:
                submission = Submission(**read_json(path))
            except TypeError:
                raise BadInput(f"{path}: not what this program writes of a batch; move it away") from None
            if not any(key in wanted for key in submission.requests):
                continue
            if submission.id:
                try:
                    self._api.look(submission.id)  # before anything more is submitted
                except BadInput as error:
                    raise BadInput(
                        f"{error}; it is noted in {path}: without that file its requests are submitted again"
                    ) from None
            if found := submission.id or self._api.find(submission.tag):
                yield self._write_down(submission._replace(id=found))
            else:
                path.unlink(missing_ok=True)

    def _write_down(self, submission: Submission) -> Submission:
        path = self._beside.with_name(f"{self._beside.name}.batch-{submission.tag}.json")
        if submission.requests:
            write_json(path, submission._asdict(), indent=None)
        else:
            path.unlink(missing_ok=True)
        return submission

    def _submit(self, calls: Calls) -> Iterator[Submission]:
        for keys, file in self._parts(calls):
            tag = uuid.uuid4().hex
            uploaded = self._api.upload(tag, file)
            submission = self._write_down(Submission(tag, None, time.time(), keys))
            submission = submission._replace(id=self._api.create(tag, uploaded))
            _say(f"batch {submission.id} submitted: {len(keys)} requests")
            yield self._write_down(submission)

    def _parts(self, calls: Calls) -> Iterator[tuple[list[str], IO[bytes]]]:
        """The keys of one batch after another, and the file of their requests."""
        keys: list[str] = []
        with self._scratch() as file:
            for key, make in calls:
                body = {"model": self._model, **make()}
                body |= body.pop("extra_body", {})  # which the client would put into the body
                line = json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"
                if keys and (len(keys) == MOST_REQUESTS or file.tell() + len(line) > MOST_BYTES):
                    yield keys, file
                    keys = []
                    empty(file)
                file.write(line)
                keys.append(key)
            if keys:
                yield keys, file

    @contextmanager
    def _scratch(self) -> Iterator[IO[bytes]]:
        """A file without a name, so that no kill leaves responses lying about."""
        make_room_for(self._beside)
        try:
            with tempfile.TemporaryFile(dir=self._beside.parent) as file:
                yield file
        except OSError as error:
            raise BadInput(f"{self._beside.parent}: a batch cannot be written there ({error.strerror})") from None

    def _wait(self, waiting: list[Submission], wanted: Collection[str]) -> Outcomes:
        pause, told = POLL, {}
        while True:
            for submission in list(waiting):
                state = self._api.look(submission.id)
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

    def _collect(self, submission: Submission, state: State, wanted: Collection[str]) -> Outcomes:
        left = {key for key in submission.requests if key in wanted}
        with self._scratch() as file:
            for key, outcome in self._api.outcomes(state, file):
                if key in left:
                    left.remove(key)
                    yield key, outcome
        if left:
            why = "it holds more tokens than may wait on this account: judge by --category or without --batch"
            why = why if state.too_much else "the same command submits them again"
            _say(f"batch {submission.id} {state.status}, without an answer to {len(left)} requests; {why}")
        for key in left:
            yield key, Failure(f"unanswered (batch {state.status})", request_at_fault=False)
        others = {key for key in submission.requests if key not in wanted}
        self._write_down(submission._replace(requests=sorted(others - self._store.find(others).keys())))


def _say(what: str) -> None:
    print(f"note: {what}", file=sys.stderr)
