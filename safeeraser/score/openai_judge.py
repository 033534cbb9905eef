"""The LLM judge, over the OpenAI protocol: OpenAI itself, or a local server (vLLM, llama.cpp, Ollama) by `base_url`."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from safeeraser.chat import Chat, Failure, Reply, read_key
from safeeraser.score.judges import Judge
from safeeraser.score.ledger import Ledger
from safeeraser.score.parse import FAILED
from safeeraser.score.prompts import render
from safeeraser.score.queries import METRICS, Query

MAX_TOKENS = 64  # a verdict is a word or a number; a judge that rambles need not be paid for


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
        key = read_key(api_key, base_url, who="the judge gpt-4o", otherwise="--judge rules needs none")
        self._chat = Chat(model, api_key=key, base_url=base_url, concurrency=concurrency)
        self._model, self._swapped = model, swapped
        self._ledger = Ledger(ledger)
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
            digest = Ledger.digest(self._chat.address, self._model, prompt)
            prompts[digest] = prompt
            waiting.setdefault(digest, []).append(query)
        for digest in [digest for digest in waiting if self._ledger.get(digest) is not None]:
            for query in waiting.pop(digest):
                yield query, self._ledger.get(digest)
        calls = ((digest, lambda digest=digest: _request(prompts[digest])) for digest in waiting)
        with closing(self._chat.ask(calls)) as outcomes:
            for digest, outcome in outcomes:
                reply = self._take(digest, outcome)
                for query in waiting[digest]:
                    yield query, reply

    def finish(self) -> str:
        """Forget the ledger, unless calls failed: then the same command asks only those again."""
        if not self._failures:
            self._ledger.discard()
            return ""
        kinds = ", ".join(f"{count} x {kind}" for kind, count in self._failures.most_common())
        return f"judge calls failed ({kinds}); the same command asks only those again"

    def _take(self, digest: str, outcome: Reply | Failure) -> str:
        if isinstance(outcome, Failure):
            self._failures[outcome.kind] += 1
            return FAILED
        self._ledger.add(digest, outcome.text)
        return outcome.text


def _request(prompt: str) -> dict:
    return {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": MAX_TOKENS}
