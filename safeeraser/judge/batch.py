"""Calls through OpenAI's Batch API: half the price, with answers within a day.

Any run may be stopped within a day. So a note next to the store is written before each submission, with a tag that the
server keeps as well. The next run finds the batch by its id or its tag, and waits for it instead of paying twice.

As in `chat`, no text from the server is shown, except ids of a plain form.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from datetime import timedelta
from functools import partial
from glob import escape
from io import BytesIO
from typing import Any, Literal, NamedTuple

import openai

from safeeraser.benchmark.files import read_json, write_json
from safeeraser.chat import Chat
from safeeraser.errors import BadInput, note
from safeeraser.judge.store import Store
from safeeraser.replies import Failure, Reply, discreet, read_body

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "safeeraser"  # the key in a batch's metadata that holds its tag
ENDED = ("completed", "failed", "expired", "cancelled")
MOST_REQUESTS, MOST_BYTES = 50_000, 200_000_000  # the API's limits for a batch
POLL = 60.0  # seconds between two checks of a batch
TRIES, PAUSE = 20, 30.0  # of a request if the server is unreachable, and the seconds between: ten minutes or more

Calls = Iterable[tuple[str, Callable[[], dict[str, Any]]]]
Outcomes = Iterator[tuple[str, Reply | Failure]]


class Submission(NamedTuple):
    """The note of a batch. Without an id, the batch may or may not have reached the server."""

    tag: str
    id: str | None
    at: float  # Unix time
    requests: list[str]  # the keys of the requests whose outcome no run has read


class State(NamedTuple):
    """A batch's state as the server reports it. Only a status in `ENDED` may be shown."""

    status: str
    done: int
    files: list[str]
    too_much: bool  # it holds more tokens than may wait on this account, so no request was answered


class BatchChat(Chat[str]):
    """A `Chat` that makes its calls in batches, and keeps notes of the submissions next to the file of `store`."""

    def __init__(self, model: str, *, store: Store, **server: Any) -> None:
        super().__init__(model, **server)
        self._store = store
        self._client = openai.OpenAI(
            api_key=self.api_key.text, base_url=self.base_url or None, max_retries=self.retries, timeout=self.timeout
        )

    def ask(self, calls: Calls) -> Generator[tuple[str, Reply | Failure], None, None]:
        """Yield each call's outcome when its batch ends. A key must name the same request in every run.

        If the caller stops early, the server continues with the batches.

        Raises:
            BadInput: as `Chat.ask`; or the server has no Batch API, or a note cannot be written.
        """
        wanted, waiting = dict(calls), []
        try:
            for submission in self._written_down(wanted.keys()):
                waiting.append(submission)
            submitted = {key for submission in waiting for key in submission.requests}
            for keys, lines in self._parts((key, make) for key, make in wanted.items() if key not in submitted):
                waiting.append(self._submit(keys, lines))
            self._store.release()  # a day is too long to keep other runs from the store
            yield from self._wait(waiting, wanted.keys())
        except (KeyboardInterrupt, GeneratorExit):
            if waiting:
                names = ", ".join(str(submission.id) for submission in waiting)
                note(f"the server continues with batch {names}; the same command waits for it again")
            raise

    def _written_down(self, wanted: Set[str]) -> Iterator[Submission]:
        """Yield the submissions of earlier runs that hold `wanted` requests."""
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
                    self.look(submission.id)  # fails before anything more is submitted
                except BadInput as error:
                    raise BadInput(
                        f"{error}; {path} records this batch: remove that file to submit its requests again"
                    ) from None
            if batch := submission.id or self._request(partial(self._find, submission.tag)):
                yield self._write_down(submission._replace(id=batch))
            else:
                path.unlink(missing_ok=True)

    def _write_down(self, submission: Submission) -> Submission:
        path = self._store.path.with_name(f"{self._store.path.name}.batch-{submission.tag}.json")
        if submission.requests:
            write_json(path, submission._asdict(), indent=None)
        else:
            path.unlink(missing_ok=True)
        return submission

    def _submit(self, keys: list[str], lines: BytesIO) -> Submission:
        """Upload the requests, which costs nothing yet, and make their batch unless the server has it already."""
        tag = uuid.uuid4().hex
        file = (f"{TAG}-{tag}.jsonl", lines)
        uploaded = self._request(lambda: _id(self._client.files.create(file=file, purpose="batch")))
        submission = self._write_down(Submission(tag, None, time.time(), keys))
        # Without the client's retries: a batch may exist although the answer was lost, and each batch must be paid.
        batches = self._client.with_options(max_retries=0).batches
        create = partial(batches.create, input_file_id=uploaded, endpoint=ENDPOINT, completion_window="24h")
        name = self._request(lambda: self._find(tag) or _id(create(metadata={TAG: tag})))
        submission = submission._replace(id=name)
        note(f"batch {submission.id} submitted: {len(keys)} requests")
        return self._write_down(submission)

    def _parts(self, calls: Calls) -> Iterator[tuple[list[str], BytesIO]]:
        """Yield, for each batch, the keys and the lines of its requests."""
        keys: list[str] = []
        lines = BytesIO()
        for key, make in calls:
            body = {"model": self.model, **make()}
            body |= body.pop("extra_body", {})  # which the client would merge into the body
            line = json.dumps({"custom_id": key, "method": "POST", "url": ENDPOINT, "body": body}).encode() + b"\n"
            if keys and (len(keys) == MOST_REQUESTS or lines.tell() + len(line) > MOST_BYTES):
                yield keys, lines
                keys, lines = [], BytesIO()
            keys.append(key)
            lines.write(line)
        if keys:
            yield keys, lines

    def _wait(self, waiting: list[Submission], wanted: Set[str]) -> Outcomes:
        shown: dict[str, int] = {}
        while waiting:
            for submission in list(waiting):
                name = str(submission.id)  # every submission has an id by now
                state = self.look(name)
                if state.status in ENDED:
                    waiting.remove(submission)
                    yield from self._collect(submission, state, wanted)
                elif shown.get(name) != state.done:
                    shown[name] = state.done
                    since = timedelta(seconds=round(time.time() - submission.at))
                    note(f"batch {name}: {state.done} of {len(submission.requests)} done after {since}")
            if waiting:
                time.sleep(POLL)

    def _collect(self, submission: Submission, state: State, wanted: Set[str]) -> Outcomes:
        left = set(submission.requests).intersection(wanted)
        for name in state.files:
            for key, outcome in filter(None, map(_read_line, self._request(partial(self._lines, name)))):
                if key in left:
                    left.remove(key)
                    yield key, discreet(outcome, self.api_key.text)
        if left:
            why = "it holds more tokens than this account may queue: judge one --category at a time, or without --batch"
            why = why if state.too_much else "the same command submits them again"
            note(f"batch {submission.id} {state.status}, without an answer to {len(left)} requests; {why}")
        for key in left:
            yield key, Failure(f"unanswered (batch {state.status})", request_at_fault=False)
        others = set(submission.requests) - wanted
        self._write_down(submission._replace(requests=sorted(others - self._store.find(others).keys())))

    def _find(self, tag: str) -> str | None:
        """The id of the batch that was submitted with `tag`; None if the server has none."""
        batches = self._client.batches.list(limit=100)
        return next((_id(batch) for batch in batches if (batch.metadata or {}).get(TAG) == tag), None)

    def look(self, name: str) -> State:
        """The state of the batch with the id `name`."""

        def retrieve() -> State:
            """Ask the server once."""
            batch = self._client.batches.retrieve(name)
            counts, errors = batch.request_counts, batch.errors
            return State(
                status=batch.status,
                done=int(counts.completed) + int(counts.failed) if counts else 0,
                files=[file for file in (batch.output_file_id, batch.error_file_id) if file],
                too_much=any(error.code == "token_limit_exceeded" for error in (errors and errors.data) or []),
            )

        return self._request(retrieve, f"does not know batch {name}")

    def _lines(self, name: str) -> list[bytes]:
        """The lines of a file, downloaded completely first: a lost connection then costs a download, not an answer."""
        try:
            return self._client.files.content(name).content.splitlines()
        except openai.NotFoundError:  # the server keeps answers for a month
            return []

    def _request(self, send: Callable[[], Any], absent: str = "has no Batch API: leave out --batch") -> Any:
        """The result of `send`, retried because a server may be unreachable for some minutes within a day."""
        for _ in range(TRIES):
            try:
                answer = send()
            except Exception as error:  # as a value, for the reason given in `Chat._attempts`
                answer = error
            status = getattr(answer, "status_code", 0)
            if status in (404, 405, 501):
                raise BadInput(f"{self._where} {absent} (HTTP {status})")
            self._stop_if_hopeless(answer)
            if 400 <= status < 500 and status not in (408, 409, 429):
                raise BadInput(f"{self._where} refuses a request about the batch (HTTP {status})")
            if not isinstance(answer, Exception):
                self._reached = True
                return answer
            time.sleep(PAUSE)
        raise BadInput(f"{self._where} has not answered {TRIES} times; the same command resumes from here")


def _id(thing: Any) -> str:
    """The id of an object. Raises `ValueError` if it is not of an id's form, because it might be any text."""
    if not re.fullmatch(r"[\w-]{1,100}", thing.id):
        raise ValueError
    return thing.id


def _read_line(line: bytes) -> tuple[str, Reply | Failure] | None:
    """A request's outcome; None if the line holds no response, as for requests that the day was too short for."""
    try:
        value = json.loads(line)
        key, status, body = str(value["custom_id"]), int(value["response"]["status_code"]), value["response"]["body"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if status == 200:
        return key, read_body(body)
    return key, Failure(f"error in the batch (HTTP {status})", request_at_fault=status == 400)
