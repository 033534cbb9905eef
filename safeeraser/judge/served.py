"""LLM judges, over the OpenAI protocol: OpenAI itself, or a server of one's own (vLLM, llama.cpp, Ollama)."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any

from safeeraser.chat import Chat, Failure, Reply
from safeeraser.judge.dialects import Dialect
from safeeraser.judge.judges import Judge, Spent
from safeeraser.judge.queries import Query
from safeeraser.judge.store import Store, request_hash
from safeeraser.judge.verdicts import FAILED, Verdict

CHARACTERS = 4  # of English text to a token, roughly
REASONS = ("stop", "length", "content_filter")  # why a reply ends, by the protocol


class ChatJudge(Judge):
    """Asks a model, at temperature 0. Equal requests are asked once, and no request that the store has an answer to.

    A call that fails after its retries gives a failed verdict. It is not stored, so the same command asks it again.
    """

    judges_blank = False

    def __init__(self, dialect: Dialect, model: str, chat: Chat, store: Store, extra: dict[str, Any]) -> None:
        self.name, self.model, self.decides = dialect.name, model, dialect.decides
        self._dialect, self._chat, self._store, self._extra = dialect, chat, store, extra
        self.spent = Spent()
        self.failures: Counter[str] = Counter()

    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its verdict: first those that the store has, then as calls finish.

        Raises:
            BadInput: the key, the model or the address is wrong, which no retry mends. Replies so far are kept.
        """
        waiting = self._by_request(queries)
        with self._store.held():
            for request, reply in self._store.find(waiting.keys()).items():
                for query in waiting.pop(request):
                    yield query, self._verdict(query, reply)
            # Requests are made when their calls start, and forgotten: all at once they would weigh as much as the data.
            calls = ((request, lambda request=request: self._request(waiting[request][0])) for request in waiting)
            with closing(self._chat.ask(calls)) as outcomes:
                for request, outcome in outcomes:
                    reply = self._take(request, waiting[request], outcome)
                    for query in waiting[request]:
                        yield query, self._verdict(query, reply)

    def foresee(self, queries: Iterable[Query]) -> Iterator[tuple[str, Spent]]:
        """What asking would take beyond what the store has, by metric; tokens are guessed from the texts' lengths."""
        waiting = self._by_request(queries)
        known = self._store.find(waiting.keys())
        for request, same in waiting.items():
            if request not in known:
                text = "".join(message["content"] for message in self._dialect.messages(same[0]))
                yield same[0].metric, Spent(1, len(text) // CHARACTERS, 2)

    def _by_request(self, queries: Iterable[Query]) -> dict[str, list[Query]]:
        waiting: dict[str, list[Query]] = {}
        for query in queries:
            request = request_hash(self._chat.address, self.model, self._request(query))
            waiting.setdefault(request, []).append(query)
        return waiting

    def _request(self, query: Query) -> dict[str, Any]:
        usual = {"messages": self._dialect.messages(query), "temperature": 0, "max_tokens": self._dialect.max_tokens}
        own = {key: value for key, value in usual.items() if key not in self._extra}
        sent = {key: value for key, value in self._extra.items() if value is not None}
        return own | ({"extra_body": sent} if sent else {})

    def _verdict(self, query: Query, reply: str) -> Verdict:
        return Verdict(reply, None if reply == FAILED else self._dialect.read(query, reply))

    def _take(self, request: str, queries: list[Query], outcome: Reply | Failure) -> str:
        if isinstance(outcome, Reply) and not outcome.text.strip():
            # Kept, it would be read as no verdict for ever. Only words that are known are shown of a server's.
            reason = outcome.finish_reason if outcome.finish_reason in REASONS else "no known reason"
            outcome = Failure(f"empty reply ({reason})", request_at_fault=False)
        if isinstance(outcome, Failure):
            self.failures[outcome.kind] += 1
            return FAILED
        self._keep(request, queries, outcome)
        return outcome.text

    def _keep(self, request: str, queries: list[Query], reply: Reply) -> None:
        """Put a reply into the store, and what it cost to the account."""
        self.spent += Spent(1, reply.prompt_tokens or 0, reply.completion_tokens or 0)
        self._store.add(
            {
                "request": request,
                "judge": self.name,
                "model": self.model,
                "prompt": self._dialect.prompt,
                "reply": reply.text,
                "verdicts": {query.metric: self._verdict(query, reply.text).value for query in queries},
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "seconds": None if reply.seconds is None else round(reply.seconds, 3),
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )
