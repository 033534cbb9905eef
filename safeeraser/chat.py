"""One client for every server that speaks the OpenAI protocol: OpenAI itself, vLLM, llama.cpp, Ollama and the like.

What a call needs is the official client's: connections, timeouts, and retries that back off and wait as long as
Retry-After says. What a run of thousands of calls needs is here: many at a time but never more than asked for, a pause
where the server limits the rate, and an end as soon as no further call can succeed.

The API key goes to the client and nowhere else. No text that comes from a server or an exception is shown, because
servers like to repeat a wrong key, and the prompt.
"""

import asyncio
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

import openai
from openai.types.chat import ChatCompletion

from safeeraser.errors import BadInput

Key = TypeVar("Key")

ROUNDS = 3  # how often a call comes back after a pause, once the client's own retries met nothing but the rate limit
PAUSE = 30.0  # seconds of such a pause where the server names none; limits count by the minute
LONGEST_PAUSE = 3600.0  # seconds; a server that asks for more has a limit by the day
PATIENCE = 8  # calls in a row without an answer, at least, before the server counts as gone

# The same request will meet these again; the statuses that the server's state explains are 429 and 500 upwards.
_AT_FAULT = (400, 413, 422)
_KEY_CODES = ("invalid_api_key",)
_MODEL_CODES = ("model_not_found",)
_ACCOUNT_CODES = ("insufficient_quota", "billing_not_active")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reply:
    """A call that was answered; what the server did not say is None, but for the text, which is then empty.

    `seconds` runs from the first attempt to the answer, with every wait and retry between; None where nobody waited.
    """

    text: str
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    finish_reason: str | None


@dataclass(frozen=True)
class Failure:
    """A call that failed after its retries.

    `kind` is made of names and numbers only, so it is safe to show. With `request_at_fault` asking again is no use.
    """

    kind: str
    request_at_fault: bool


def read_key(given: str | None, base_url: str | None, *, who: str, otherwise: str) -> str:
    """The API key: `given`, or the environment's; a server named by `base_url` may do without.

    Raises:
        BadInput: there is none (the line ends with `otherwise`, the other way out), or it cannot be one.
    """
    key = (given or os.environ.get("OPENAI_API_KEY") or "").strip()
    if not key and base_url:
        return "none"  # a local server takes any word, and the client wants one
    if not key:
        raise BadInput(
            f"{who} needs a key: give --api_key or set OPENAI_API_KEY (a local server named by --base_url needs none); "
            + otherwise
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput("the API key holds a character that no key has; was more than the key pasted?")
    return key


class Chat:
    """Asks one model of one server, `concurrency` calls at a time.

    Args:
        who: how messages name the server, as in "the judge at api.openai.com cannot be reached".
        requests_per_minute: requests go out at this rate at most, evenly spaced. Retries count, as they do for the
            server. None: as fast as the answers come.
        timeout: seconds without a byte from the server after which an attempt is given up.
        retries: attempts of a call after the first, by the client.

    Raises:
        BadInput: `base_url` is no address.
    """

    def __init__(
        self,
        model: str,
        *,
        api_key: str,
        base_url: str | None,
        concurrency: int,
        who: str = "the judge",
        requests_per_minute: float | None = None,
        timeout: float = 60.0,
        retries: int = 5,
    ):
        self._model, self._key, self._base_url, self._concurrency = model, api_key, base_url, concurrency
        self._timeout, self._retries = timeout, retries
        self._gap = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0  # when the next request may go out, on the monotonic clock
        self._reached, self._unanswered = False, 0  # whether the server ever answered; calls in a row that it did not
        self._accepted, self._refused = False, 0  # whether it ever took a request; calls in a row that it refused
        self.address, host = self._resolve()
        self._where = f"{who} at {host}"
        # They write a line a request at INFO and whole requests at DEBUG. A level that was set on purpose stays.
        for name in ("openai", "httpx2", "httpcore2"):
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)

    def ask(
        self, calls: Iterable[tuple[Key, Callable[[], dict[str, Any]]]]
    ) -> Generator[tuple[Key, Reply | Failure], None, None]:
        """Yield each call's outcome as calls finish, in any order.

        A call is a key and a function that makes the request: the keyword arguments of `chat.completions.create` but
        the model. `calls` is read no further than there is room, and a request is made only when its call starts, so
        no more than `concurrency` of them exist at a time. Whatever `calls` or a function raises ends the run.

        The first call goes alone: if the key is wrong, it is the only one to find out. Closing the generator cancels
        what is in flight; `contextlib.closing` does so in time whatever happens.

        Raises:
            BadInput: the key, the model, the address or the account is wrong, which no retry mends, or the server
                stopped answering. What was answered before has been yielded.
        """
        waiting, room, client = iter(calls), 1, self._open()
        flying: dict[Future[Reply | Failure], Key] = {}
        finished: SimpleQueue[Future[Reply | Failure]] = SimpleQueue()
        with _loop_beside(client) as loop:
            while True:
                for key, make in islice(waiting, room - len(flying)):
                    future = asyncio.run_coroutine_threadsafe(self._call(client, make()), loop)
                    flying[future] = key
                    future.add_done_callback(finished.put)
                if not flying:
                    return
                future = finished.get()
                room = self._concurrency
                yield flying.pop(future), future.result()

    def _open(self) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._turn]})
        return openai.AsyncOpenAI(
            api_key=self._key,
            base_url=self._base_url or None,
            max_retries=self._retries,
            timeout=self._timeout,
            http_client=http,
        )

    def _resolve(self) -> tuple[str, str]:
        """The address as the client understands it, and the host in it."""
        error = None
        try:
            url = self._open().base_url
        except Exception as caught:  # which ones is the HTTP library's own affair
            error = type(caught).__name__
        if error:
            raise BadInput(f"--base_url or the environment's proxy settings cannot be used ({error})")
        if url.scheme not in ("http", "https") or not url.host:
            raise BadInput("--base_url is no address of a server; one looks like http://localhost:8000/v1")
        return str(url), url.host

    async def _turn(self, _request: object) -> None:
        """Hold a request back until its time has come; the HTTP client calls this before each, retries included."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._gap
        await asyncio.sleep(start - now)

    async def _call(self, client: openai.AsyncOpenAI, request: dict[str, Any]) -> Reply | Failure:
        began = time.monotonic()
        for last in (*[False] * ROUNDS, True):
            answer = await _answer(client, self._model, request)
            self._stop_if_hopeless(answer)
            if last or not isinstance(answer, openai.RateLimitError):
                break
            self._hold(answer)
        outcome = _outcome(answer, time.monotonic() - began)
        self._stop_if_gone(answer, outcome)
        return outcome

    def _hold(self, error: openai.RateLimitError) -> None:
        """Let nobody ask for as long as the server wants.

        The client waits for two minutes at most: longer ones it does not try. And all its retries together take half
        a minute where the server names no time, less than it takes until a limit by the minute is lifted.
        """
        seconds = PAUSE
        with suppress(ValueError):
            seconds = float(error.response.headers.get("retry-after", ""))
        if seconds > LONGEST_PAUSE:
            hours = f"{seconds / 3600:.1f} hours"
            raise BadInput(f"{self._where} takes no more calls for {hours} (HTTP 429); the same command goes on then")
        until = time.monotonic() + seconds
        if until > self._next + seconds / 2:  # not once more for every call that comes back from the same limit
            log.warning("%s limits the rate of calls: waiting %.0f s", self._where, seconds)
            self._next = until

    def _stop_if_hopeless(self, answer: object) -> None:
        where, status, code = self._where, getattr(answer, "status_code", None), getattr(answer, "code", None)
        if not isinstance(answer, openai.OpenAIError):
            return
        if status in (401, 403) or code in _KEY_CODES:
            raise BadInput(f"{where} does not accept the API key (HTTP {status or '?'})")
        if status in (404, 405) or code in _MODEL_CODES:
            raise BadInput(f"{where} knows no model '{self._model}', or --base_url is wrong (HTTP {status or '?'})")
        if status == 402 or code in _ACCOUNT_CODES:
            raise BadInput(f"{where} takes no more calls on this account ({code if status != 402 else 'HTTP 402'})")
        unreachable = isinstance(answer, openai.APIConnectionError) and not isinstance(answer, openai.APITimeoutError)
        if unreachable and not self._reached:
            raise BadInput(f"{where} cannot be reached; is --base_url right?")

    def _stop_if_gone(self, answer: object, outcome: Reply | Failure) -> None:
        """A server that died in the night must not use up the rest of the calls.

        All calls in flight fail together when it dies, so there must be as many in a row as can be in flight.
        """
        status = getattr(answer, "status_code", 200)
        self._refused = self._refused + 1 if isinstance(outcome, Failure) and outcome.request_at_fault else 0
        if not self._accepted and self._refused >= PATIENCE:
            kind = f"{outcome.kind}{_plain_code(answer)}"
            raise BadInput(f"{self._where} has refused each of {self._refused} calls ({kind})")
        self._accepted = self._accepted or isinstance(outcome, Reply)
        if not isinstance(answer, openai.APIConnectionError):
            self._reached = True
            if status != 429 and status < 500:
                self._unanswered = 0
                return
        self._unanswered += 1
        if self._unanswered >= max(self._concurrency, PATIENCE):
            count = f"the last {self._unanswered} calls ({outcome.kind})"
            raise BadInput(f"{self._where} has not answered {count}; the same command goes on from here")


def _plain_code(answer: object) -> str:
    """An error's code where it is a plain word, so that no text of a server's is shown."""
    code = getattr(answer, "code", None)
    return f", {code}" if isinstance(code, str) and re.fullmatch(r"[a-z_]{1,40}", code) else ""


async def _answer(client: openai.AsyncOpenAI, model: str, request: dict[str, Any]) -> object:
    """What the client returns or raises.

    As a value, since an exception raised while another is handled carries that one along, with the key in it.
    """
    try:
        return await client.chat.completions.create(model=model, **request)
    except Exception as error:  # a server may send anything, and the client raises what its parts happen to raise
        return error


def read_body(body: Any) -> Reply | Failure:
    """The outcome of a call whose answer lies in a file, as the JSON value `body`, instead of coming by the client."""
    try:
        answer: object = ChatCompletion.construct(**body)  # as the client does, so that both are read alike
    except Exception:  # it may be anything, as a server's answer may
        answer = None
    return _outcome(answer, None)


def _outcome(answer: object, seconds: float | None) -> Reply | Failure:
    if isinstance(answer, openai.APIStatusError):
        kind = f"{type(answer).__name__} (HTTP {answer.status_code})"
        return Failure(kind, request_at_fault=answer.status_code in _AT_FAULT)
    if isinstance(answer, openai.APIConnectionError):
        return Failure(type(answer).__name__, request_at_fault=False)
    try:
        return _read(answer, seconds)
    except (AttributeError, IndexError, KeyError, TypeError):
        return Failure("no chat completion", request_at_fault=False)


def _read(completion: Any, seconds: float | None) -> Reply:
    """The reply in a completion. The client checks no types, so what is of another type counts as not said."""

    def of(kind: type, value: object) -> Any:
        return value if isinstance(value, kind) else None

    choice, usage = completion.choices[0], getattr(completion, "usage", None)
    text = choice.message.content
    if text is not None and not isinstance(text, str):
        raise TypeError
    return Reply(
        text=text or "",
        model=of(str, getattr(completion, "model", None)),
        prompt_tokens=of(int, getattr(usage, "prompt_tokens", None)),
        completion_tokens=of(int, getattr(usage, "completion_tokens", None)),
        seconds=seconds,
        finish_reason=of(str, getattr(choice, "finish_reason", None)),
    )


@contextmanager
def _loop_beside(client: openai.AsyncOpenAI) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own, which in the end cancels what is in flight and closes the client.

    In the caller's thread a Ctrl-C could strike within the loop and lose a step of it, and the calls would stand still
    while the caller works.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def close() -> None:
        """Leave nothing open in the loop."""
        # Only the calls: what the HTTP library started for them it ends itself, and a task of its that is cancelled
        # before its first step complains of a coroutine that was never awaited.
        ours = Chat._call.__code__
        tasks = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "cr_code", None) is ours]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        await loop.shutdown_asyncgens()

    try:
        yield loop
    finally:
        if not sys.is_finalizing():  # else the thread is gone already, and waiting for it would last forever
            try:
                asyncio.run_coroutine_threadsafe(close(), loop).result()
            finally:
                loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
