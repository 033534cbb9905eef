"""The LLM judge, over the OpenAI protocol: OpenAI itself, or a local server (vLLM, llama.cpp, Ollama) by `base_url`.

The API key goes to the client and nowhere else. No text that comes from a server or an exception is shown, because
servers like to repeat a wrong key.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path

import openai

from safeeraser.errors import BadInput
from safeeraser.score.judges import Judge
from safeeraser.score.ledger import Ledger
from safeeraser.score.parse import FAILED
from safeeraser.score.prompts import render
from safeeraser.score.queries import METRICS, Query

RETRIES = 5  # by the client: it backs off, and waits as long as Retry-After says
TIMEOUT = 60.0  # seconds a call
MAX_TOKENS = 64  # a verdict is a word or a number; a judge that rambles need not be paid for

# Nothing that a later call could mend, whatever HTTP status it comes with.
_HOPELESS_CODES = ("invalid_api_key", "model_not_found", "insufficient_quota", "billing_not_active")


class OpenAIJudge(Judge):
    """Asks a chat model, at temperature 0, `concurrency` calls at a time. Equal prompts are asked once.

    A call that fails after its retries yields the reply `exception`. It is not kept in the ledger, so the same command
    asks it again.
    """

    name = "gpt-4o"
    decides = frozenset(METRICS)
    judges_blank = False

    def __init__(
        self, model: str, api_key: str | None, base_url: str | None, *, concurrency: int, swapped: bool, ledger: Path
    ):
        key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        if not key:
            raise BadInput(
                "the judge gpt-4o needs a key: give --api_key or set OPENAI_API_KEY (any word will do for a local "
                "server); --judge rules needs none"
            )
        if not key.isascii() or not key.isprintable() or " " in key:
            raise BadInput("the API key holds a character that no key has; was more than the key pasted?")
        self._client = openai.OpenAI(api_key=key, base_url=base_url or None, max_retries=RETRIES, timeout=TIMEOUT)
        self._model, self._swapped, self._concurrency = model, swapped, concurrency
        self._ledger = Ledger(ledger)
        self._answered = False
        self._failures: Counter[str] = Counter()

    def reply(self, queries: Iterable[Query]) -> Iterator[tuple[Query, str]]:
        """Yield each query with its reply as calls finish.

        Raises:
            BadInput: the key, the model or the address is wrong, which no retry mends. Replies so far are kept.
        """
        waiting: dict[str, list[Query]] = {}
        prompts: dict[str, str] = {}
        for query in queries:
            prompt = render(query, swapped=self._swapped)
            digest = Ledger.digest(str(self._client.base_url), self._model, prompt)
            prompts[digest] = prompt
            waiting.setdefault(digest, []).append(query)
        for digest in [digest for digest in waiting if self._ledger.get(digest) is not None]:
            for query in waiting.pop(digest):
                yield query, self._ledger.get(digest)
        # The first call goes alone: if the key is wrong it is the only one to find out.
        digests = list(waiting)
        for group in (digests[:1], digests[1:]):
            for digest, reply in self._ask_all({digest: prompts[digest] for digest in group}):
                for query in waiting[digest]:
                    yield query, reply

    def finish(self) -> str:
        """Forget the ledger, unless calls failed: then the same command asks only those again."""
        if not self._failures:
            self._ledger.discard()
            return ""
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self._failures.most_common())
        return f"judge calls failed ({kinds}); the same command asks only those again"

    def _ask_all(self, prompts: dict[str, str]) -> Iterator[tuple[str, str]]:
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            futures: dict[Future[str], str] = {
                pool.submit(self._ask, digest, prompt): digest for digest, prompt in prompts.items()
            }
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _ask(self, digest: str, prompt: str) -> str:
        try:
            completion = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": prompt}],
                temperature=0,
                max_tokens=MAX_TOKENS,
            )
            reply = completion.choices[0].message.content or ""
        except openai.OpenAIError as error:
            self._stop_if_hopeless(error)
            return self._failed(error)
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # an answer that is no chat completion
            return self._failed(error)
        self._answered = True
        self._ledger.add(digest, reply)
        return reply

    def _failed(self, error: Exception) -> str:
        self._failures[type(error).__name__] += 1
        return FAILED

    def _stop_if_hopeless(self, error: openai.OpenAIError) -> None:
        where, code = f"the judge at {self._client.base_url.host}", getattr(error, "code", None)
        if isinstance(error, (openai.AuthenticationError, openai.PermissionDeniedError)) or code == "invalid_api_key":
            raise BadInput(f"{where} does not accept the API key (HTTP {getattr(error, 'status_code', '?')})") from None
        if isinstance(error, openai.NotFoundError) or code == "model_not_found":
            raise BadInput(f"{where} knows no model '{self._model}', or --base_url is wrong (HTTP 404)") from None
        if code in _HOPELESS_CODES:
            raise BadInput(f"{where} takes no more calls on this account ({code})") from None
        unreachable = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
        if unreachable and not self._answered:
            raise BadInput(f"{where} cannot be reached; is --base_url right?") from None
