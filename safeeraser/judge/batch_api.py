"""What OpenAI's Batch API is asked, through the official client.

As in `chat`, no text from the server is shown, but ids of a plain form.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, NamedTuple

import openai
from openai.types import Batch

from safeeraser.chat import Chat
from safeeraser.errors import BadInput
from safeeraser.replies import Failure, Reply, discreet, read_body

TRIES, PAUSE = 20, 30.0  # of a request while the server is away, and the seconds between: ten minutes or more
ENDED = ("completed", "failed", "expired", "cancelled")
ENDPOINT = "/v1/chat/completions"
TAG = "safeeraser"  # the name in a batch's metadata under which it can be found again


class State(NamedTuple):
    """What the server says of a batch."""

    status: str
    done: int
    files: list[str]
    too_much: bool  # more tokens than may wait at a time on this account, so that none was asked

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more; only then is `status` a word that may be shown."""
        return self.status in ENDED


class BatchApi(Chat):
    """The batches of one server. Each method raises `BadInput` where no retry helps, as `Chat.ask` does."""

    def __init__(self, model: str, **server: Any) -> None:
        super().__init__(model, **server)
        self._client = openai.OpenAI(
            api_key=self._key, base_url=self._base_url or None, max_retries=self._retries, timeout=self._timeout
        )

    def upload(self, tag: str, file: IO[bytes]) -> str:
        """Hand over the requests in `file`, which costs nothing yet; returns the id of the server's copy."""
        return self._request(self._upload, tag, file)

    def create(self, tag: str, uploaded: str) -> str:
        """Make the batch of what was uploaded, unless there is one with this tag; returns its id."""
        return self._request(self._create, tag, uploaded)

    def find(self, tag: str) -> str | None:
        """The id of the batch that was submitted with `tag`, if it came so far."""
        return self._request(self._find, tag)

    def look(self, name: str) -> State:
        """How far the batch is."""
        return self._request(self._look, name, absent=f"does not know batch {name}")

    def outcomes(self, state: State, file: IO[bytes]) -> Iterator[tuple[str, Reply | Failure]]:
        """What a batch that ended has answered, in any order, by the requests' keys; `file` is room to work in."""
        for name in state.files:
            self._request(self._download, name, file)
            for key, found in filter(None, map(_read_line, file)):
                yield key, discreet(found, self._key)

    def _request(
        self, send: Callable[..., Any], *given: Any, absent: str = "has no Batch API: leave out --batch"
    ) -> Any:
        """What `send` returns, in the end: in a day a server may well be away for some minutes."""
        for _ in range(TRIES):
            answer = _attempt(send, *given)
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

    def _upload(self, tag: str, file: IO[bytes]) -> str:
        file.flush()  # its length is asked of the system
        return _id(self._client.files.create(file=(f"{TAG}-{tag}.jsonl", file), purpose="batch"))

    def _create(self, tag: str, uploaded: str) -> str:
        """Without the client's retries: a batch may be there although its answer was lost, and each one is paid."""
        client = self._client.with_options(max_retries=0)
        return self._find(tag) or _id(
            client.batches.create(
                input_file_id=uploaded, endpoint=ENDPOINT, completion_window="24h", metadata={TAG: tag}
            )
        )

    def _find(self, tag: str) -> str | None:
        batches = self._client.batches.list(limit=100)
        return next((_id(batch) for batch in batches if (batch.metadata or {}).get(TAG) == tag), None)

    def _look(self, name: str) -> State:
        batch: Batch = self._client.batches.retrieve(name)
        done = int(batch.request_counts.completed) + int(batch.request_counts.failed) if batch.request_counts else 0
        codes = [error.code for error in batch.errors.data or []] if batch.errors else []
        files = [file for file in (batch.output_file_id, batch.error_file_id) if file]
        return State(batch.status, done, files, "token_limit_exceeded" in codes)

    def _download(self, name: str, file: IO[bytes]) -> None:
        """All of it before it is read: a connection that breaks off then costs a download, not an answer."""
        empty(file)
        try:
            with self._client.files.with_streaming_response.content(name) as response:
                for block in response.iter_bytes():
                    file.write(block)
        except openai.NotFoundError:  # answers are kept for a month
            empty(file)
        file.seek(0)


def empty(file: IO[bytes]) -> None:
    """Make room for the next content."""
    file.seek(0)
    file.truncate()


def _attempt(send: Callable[..., Any], *given: Any) -> Any:
    """What it returns or raises, as a value, for the reason that `chat` gives."""
    try:
        return send(*given)
    except OSError:  # of a file of ours; the client's errors are others
        raise
    except Exception as error:
        return error


def _id(thing: Any) -> str:
    """Raises `ValueError` for what is no id, and might be a text."""
    if not re.fullmatch(r"[\w-]{1,100}", thing.id):
        raise ValueError
    return thing.id


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
