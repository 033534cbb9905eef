"""One client for every server that speaks the OpenAI protocol: OpenAI itself, vLLM, llama.cpp, Ollama and the like.

The official client handles a single call: connections, timeouts, and retries that back off and heed Retry-After. This
module handles a run of thousands of calls: many at a time but never more than asked for, a pause where the server
limits the rate, and an end as soon as no further call can succeed.

Only the client sends the API key, and no text from a server is shown (see `replies`).
"""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import openai

from safeeraser.errors import BadInput
from safeeraser.keys import ApiKey
from safeeraser.replies import FILTERED, GARBAGE, Failure, Reply, discreet, outcome, plain

Key = TypeVar("Key")

ROUNDS = 3  # how often a call is repeated after a pause, once the client's own retries have ended in the rate limit
PAUSE = 30.0  # seconds of such a pause where the server names none; usual limits are by the minute
GARBAGE_PAUSE, LONGEST_GARBAGE_PAUSE = 0.5, 8.0  # seconds before a retry after an answer that is no completion
LONGEST_PAUSE = 3600.0  # seconds; a server that asks for more has a daily limit
PATIENCE = 8  # the server counts as gone only after at least so many unanswered calls in a row

_KEY_CODES = ("invalid_api_key",)
_MODEL_CODES = ("model_not_found",)
_ACCOUNT_CODES = ("insufficient_quota", "billing_not_active")

log = logging.getLogger(__name__)


@dataclass(kw_only=True, repr=False, eq=False)
class Chat(Generic[Key]):
    """Asks one model of one server, `concurrency` calls at a time.

    Args:
        who: the name of the server in messages, as in "the judge at api.openai.com cannot be reached".
        requests_per_minute: the most requests a minute, evenly spaced. Retries count, as they do for the server. None:
            requests go out as fast as the answers come.
        timeout: seconds without a byte from the server after which an attempt is given up.
        retries: attempts of a call after its first.

    Raises:
        BadInput: `base_url` is no address of a server, or the environment's proxy settings cannot be used.
    """

    model: str = field(kw_only=False)
    api_key: ApiKey
    base_url: str | None
    concurrency: int
    who: str = "the judge"
    requests_per_minute: float | None = None
    timeout: float = 60.0
    retries: int = 5

    def __post_init__(self) -> None:
        self._gap = 60.0 / self.requests_per_minute if self.requests_per_minute else 0.0
        self._next = 0.0  # when the next request may go out, on the monotonic clock
        self._reached, self._unanswered = False, 0  # whether the server ever answered; unanswered calls in a row
        self._accepted, self._refused = False, 0  # whether it ever accepted a request; refused calls in a row
        self.address, host = self._resolve()
        self._where = f"{self.who} at {host}"
        # These libraries log a line a request at INFO, full requests at DEBUG. A level that was set on purpose stays.
        for name in ("openai", "httpx2", "httpcore2"):
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)

    def ask(
        self, calls: Iterable[tuple[Key, Callable[[], dict[str, Any]]]]
    ) -> Generator[tuple[Key, Reply | Failure], None, None]:
        """Yield each call's outcome as calls finish, in any order.

        A call is a key and a function that makes the request: the keyword arguments of `chat.completions.create` except
        `model`. `calls` is read only as calls find room, and a request is made only when its call starts. So at most
        `concurrency` requests exist at a time. An exception from `calls` or from such a function ends the run.

        The first call goes alone, so a wrong key costs one call. Closing the generator cancels the calls in flight;
        `contextlib.closing` closes it in time whatever happens.

        Raises:
            BadInput: the key, the model, the address or the account is wrong, which no retry mends, or the server
                stopped answering. Outcomes of earlier calls have been yielded by then.
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
                room = self.concurrency
                yield flying.pop(future), future.result()

    def _open(self) -> openai.AsyncOpenAI:
        http = openai.DefaultAsyncHttpxClient(event_hooks={"request": [self._turn]})
        return openai.AsyncOpenAI(
            api_key=self.api_key.text,
            base_url=self.base_url or None,
            max_retries=self.retries,
            timeout=self.timeout,
            http_client=http,
        )

    def _resolve(self) -> tuple[str, str]:
        """The address as the client understands it, without name and password, and the host in it."""
        error = None
        try:
            url = self._open().base_url
        except Exception as caught:  # the HTTP library may raise any kind of error
            error = type(caught).__name__
        if error:
            raise BadInput(f"--base_url or the environment's proxy settings cannot be used ({error})")
        if url.scheme not in ("http", "https") or not url.host:
            raise BadInput("--base_url is not a server address; give an address such as http://localhost:8000/v1")
        return str(url.copy_with(userinfo=b"")), url.host

    async def _turn(self, _request: object) -> None:
        """Hold a request back until it may be sent; the HTTP client calls this before each one, including retries."""
        now = time.monotonic()
        start = max(now, self._next)
        self._next = start + self._gap
        await asyncio.sleep(start - now)

    async def _call(self, client: openai.AsyncOpenAI, request: dict[str, Any]) -> Reply | Failure:
        began = time.monotonic()
        for last in (*[False] * ROUNDS, True):
            answer = await self._attempts(client, request)
            self._stop_if_hopeless(answer)
            if last or not isinstance(answer, openai.RateLimitError):
                break
            self._hold(answer)
        reply = discreet(outcome(answer, time.monotonic() - began), self.api_key.text)
        self._stop_if_gone(answer, reply)
        return reply

    async def _attempts(self, client: openai.AsyncOpenAI, request: dict[str, Any]) -> object:
        """The client's answer or its error, as a value: raised while another is handled, an exception would carry the
        other along, with the key in it. An answer that is no chat completion is a passing fault, like status 503; it is
        retried here because the client does not.
        """
        pause = GARBAGE_PAUSE
        for left in reversed(range(self.retries + 1)):
            try:
                answer: object = await client.chat.completions.create(model=self.model, **request)
            except Exception as error:  # a server may send anything, and any part of the client may fail on it
                answer = error
            if not left or getattr(outcome(answer, None), "kind", None) != GARBAGE:
                break
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_GARBAGE_PAUSE)
        return answer

    def _hold(self, error: openai.RateLimitError) -> None:
        """Hold all requests back for as long as the server asks.

        The client itself waits at most two minutes, and does not retry if the server asks for more. Where the server
        names no time, all its retries together take half a minute, which is less than a limit by the minute lasts.
        """
        seconds = PAUSE
        with suppress(ValueError):
            seconds = float(error.response.headers.get("retry-after", ""))
        if seconds > LONGEST_PAUSE:
            raise BadInput(
                f"{self._where} takes no more calls for {seconds / 3600:.1f} hours (HTTP 429); run the same command "
                "after that to resume"
            )
        until = time.monotonic() + seconds
        if until > self._next + seconds / 2:  # not once more for every call that met the same limit
            log.warning("%s limits the rate of calls: waiting %.0f s", self._where, seconds)
            self._next = until

    def _stop_if_hopeless(self, answer: object) -> None:
        where, status, code = self._where, getattr(answer, "status_code", None), getattr(answer, "code", None)
        if not isinstance(answer, openai.OpenAIError):
            return
        if (status in (401, 403) or code in _KEY_CODES) and self.api_key.lacking:
            raise BadInput(f"{where} requires a key (HTTP {status or '?'}): {self.api_key.lacking}")
        if status in (401, 403) or code in _KEY_CODES:
            raise BadInput(f"{where} does not accept the API key (HTTP {status or '?'})")
        if status in (404, 405) or code in _MODEL_CODES:
            raise BadInput(f"{where} knows no model '{self.model}', or --base_url is wrong (HTTP {status or '?'})")
        if status == 402 or code in _ACCOUNT_CODES:
            raise BadInput(f"{where} takes no more calls on this account ({code if status != 402 else 'HTTP 402'})")
        unreachable = isinstance(answer, openai.APIConnectionError) and not isinstance(answer, openai.APITimeoutError)
        if unreachable and not self._reached:
            raise BadInput(f"{where} cannot be reached; is --base_url right?")

    def _stop_if_gone(self, answer: object, reply: Reply | Failure) -> None:
        """Raise `BadInput` once a server refuses every call or is gone, so that the remaining calls are not lost.

        When a server dies, all calls in flight fail together, so at least that many in a row must have failed.
        """
        status = getattr(answer, "status_code", 200)
        kind = reply.kind if isinstance(reply, Failure) else ""
        if kind != FILTERED:
            self._refused = self._refused + 1 if isinstance(reply, Failure) and reply.request_at_fault else 0
        if not self._accepted and self._refused >= PATIENCE:
            said = ", ".join(filter(None, (kind, plain(getattr(answer, "code", None)))))
            raise BadInput(f"{self._where} has refused each of {self._refused} calls ({said})")
        self._accepted = self._accepted or isinstance(reply, Reply)
        patience = max(self.concurrency, PATIENCE)
        if not isinstance(answer, openai.APIConnectionError):
            self._reached = True
            if status != 429 and status < 500 and kind != GARBAGE:
                self._unanswered = 0
                return
            patience *= 2 if kind == GARBAGE else 1  # the server is alive, even if it sends nonsense
        self._unanswered += 1
        if self._unanswered >= patience:
            count = f"the last {self._unanswered} calls ({kind})"
            raise BadInput(f"{self._where} has not answered {count}; the same command resumes from here")


@contextmanager
def _loop_beside(client: openai.AsyncOpenAI) -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop in a thread of its own. At the end it cancels the calls in flight and closes the client.

    In the caller's thread a Ctrl-C could strike within the loop and lose one of its steps. The calls would also pause
    while the caller works.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def close() -> None:
        """Close everything that is open in the loop."""
        # Cancel the calls alone. The HTTP library ends its own tasks, and if one is cancelled before its first step,
        # Python warns about a coroutine that was never awaited.
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
        if not sys.is_finalizing():  # at exit the thread is gone already, and waiting for it would never end
            try:
                asyncio.run_coroutine_threadsafe(close(), loop).result()
            finally:
                loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
