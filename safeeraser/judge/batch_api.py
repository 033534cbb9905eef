"""What OpenAI's Batch API is asked, through the official client.

As in `chat`, no text from the server is shown, but ids of a plain form.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

import openai

from safeeraser.chat import Chat
from safeeraser.errors import BadInput
from safeeraser.replies import Failure, Reply, discreet, read_body

TRIES, PAUSE = 20, 30.0  # of a request while the server is away, and the seconds between: ten minutes or more
ENDED = ("completed", "failed", "expired", "cancelled")
ENDPOINT = "/v1/chat/completions"
TAG = "safeeraser"  # the name in a batch's metadata under which it can be found again


class State(NamedTuple):
    """What the server says of a batch; only once it `ended` is `status` a word that may be shown."""

    status: str
    ended: bool
    done: int
    files: list[str]
    too_much: bool  # more tokens than may wait at a time on this account, so that none was asked


class BatchApi(Chat):
    """The batches of one server. Each method raises `BadInput` where no retry helps, as `Chat.ask` does."""

    def __init__(self, model: str, **server: Any) -> None:
        super().__init__(model, **server)
        self._client = openai.OpenAI(
            api_key=self._key, base_url=self._base_url or None, max_retries=self._retries, timeout=self._timeout
        )

    def upload(self, tag: str, lines: BinaryIO) -> str:
        """Hand over the requests, which costs nothing yet; returns the id of the server's copy."""
        file = (f"{TAG}-{tag}.jsonl", lines)
        return self._request(lambda: _id(self._client.files.create(file=file, purpose="batch")))

    def create(self, tag: str, uploaded: str) -> str:
        """Make the batch of what was uploaded, unless there is one with this tag; returns its id.

        Without the client's retries: a batch may be there although its answer was lost, and each one is paid.
        """
        create = self._client.with_options(max_retries=0).batches.create
        given = {"input_file_id": uploaded, "endpoint": ENDPOINT, "completion_window": "24h", "metadata": {TAG: tag}}
        return self._request(lambda: self._find(tag) or _id(create(**given)))

    def find(self, tag: str) -> str | None:
        """The id of the batch that was submitted with `tag`, if it came so far."""
        return self._request(lambda: self._find(tag))

    def _find(self, tag: str) -> str | None:
        batches = self._client.batches.list(limit=100)
        return next((_id(batch) for batch in batches if (batch.metadata or {}).get(TAG) == tag), None)

    def look(self, name: str) -> State:
        """How far the batch is."""
        return self._request(lambda: _state(self._client.batches.retrieve(name)), f"does not know batch {name}")

    def outcomes(self, state: State) -> Iterator[tuple[str, Reply | Failure]]:
        """What a batch that ended has answered, in any order, by the requests' keys."""
        for name in state.files:
            # All of it before it is read: a connection that breaks off then costs a download, not an answer.
            lines = self._request(partial(self._lines, name))
            for key, found in filter(None, map(_read_line, lines)):
                yield key, discreet(found, self._key)

    def _lines(self, name: str) -> list[bytes]:
        try:
            return self._client.files.content(name).content.splitlines()
        except openai.NotFoundError:  # answers are kept for a month
            return []

    def _request(self, send: Callable[[], Any], absent: str = "has no Batch API: leave out --batch") -> Any:
        """What `send` returns, in the end: in a day a server may well be away for some minutes."""
        for _ in range(TRIES):
            try:
                answer = send()
            except Exception as error:  # as a value, for the reason that `chat` gives
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
        raise BadInput(f"{self._where} has not answered {TRIES} times; the same command goes on from here")


def _id(thing: Any) -> str:
    """Raises `ValueError` for what is no id, and might be a text."""
    if not re.fullmatch(r"[\w-]{1,100}", thing.id):
        raise ValueError
    return thing.id


def _state(batch: openai.types.Batch) -> State:
    counts, errors = batch.request_counts, batch.errors
    return State(
        status=batch.status,
        ended=batch.status in ENDED,
        done=int(counts.completed) + int(counts.failed) if counts else 0,
        files=[file for file in (batch.output_file_id, batch.error_file_id) if file],
        too_much=any(error.code == "token_limit_exceeded" for error in (errors and errors.data) or []),
    )


def _read_line(line: bytes) -> tuple[str, Reply | Failure] | None:
    """A request's outcome; None where there is no response in the line, as with what the day was too short for."""
    try:
        value = json.loads(line)
        key, status, body = str(value["custom_id"]), int(value["response"]["status_code"]), value["response"]["body"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    if status == 200:
        return key, read_body(body)
    return key, Failure(f"error in the batch (HTTP {status})", request_at_fault=status == 400)
