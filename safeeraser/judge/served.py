"""LLM judges, over the OpenAI protocol: OpenAI itself, or a server of one's own (vLLM, llama.cpp, Ollama)."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

from safeeraser.chat import Chat
from safeeraser.judge.costs import Spent
from safeeraser.judge.dialects import Dialect
from safeeraser.judge.judges import Judge, Judging
from safeeraser.judge.queries import Query
from safeeraser.judge.store import Kept, Store, request_hash
from safeeraser.judge.verdicts import FAILED, Verdict
from safeeraser.replies import Failure, Reply

CHARACTERS = 4  # of English text to a token, roughly
REASONS = ("stop", "length", "content_filter")  # why a reply ends, by the protocol
# Parameters that not every server or model takes, the likeliest first, and what to send instead.
OPTIONAL = {"response_format": None, "max_tokens": "max_completion_tokens", "temperature": None}


class ServedJudge(Judge):
    """Asks a model, at temperature 0. Equal requests are asked once, and no request that the store has an answer to.

    A call that fails after its retries gives a failed verdict. It is not stored, so the same command asks it again.
    """

    def __init__(self, dialect: Dialect, model: str, chat: Chat, store: Store, judging: Judging) -> None:
        self.name, self.model, self.decides = dialect.name, model, dialect.decides
        self._dialect, self._chat, self._store, self._extra = dialect, chat, store, judging.extra_body
        self._max_tokens = judging.max_tokens or dialect.max_tokens
        self._batch = judging.batch
        self._memory = request_hash("refused", chat.address, model)  # where the store keeps what follows
        self._refused: frozenset[str] = frozenset()  # of `OPTIONAL`, what this model's server does not take
        self.spent = Spent()
        self.failures: Counter[str] = Counter()

    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its verdict: first those that the store has, then as calls finish.

        Raises:
            BadInput: the key, the model or the address is wrong, which no retry mends. Replies so far are kept.
        """
        waiting = self._by_request(queries)
        with self._store.held():
            known = self._store.find({*waiting, self._memory})
            if kept := known.pop(self._memory, None):
                self._refused = frozenset(kept.reply.split()) & OPTIONAL.keys()
            for request, kept in known.items():
                yield from self._verdicts(waiting.pop(request), kept)
            outcomes = self._outcomes(waiting)
            with closing(outcomes):
                for request, outcome in outcomes:
                    yield from self._verdicts(waiting[request], self._take(request, waiting[request], outcome))

    def foresee(self, queries: Iterable[Query]) -> Iterator[tuple[str, Spent]]:
        """What asking would take beyond what the store has, by metric; tokens are guessed from the texts' lengths."""
        waiting = self._by_request(queries)
        known = self._store.find(waiting.keys())
        for request, same in waiting.items():
            if request not in known:
                text = "".join(message["content"] for message in self._dialect.messages(same[0]))
                yield same[0].metric, Spent(1, len(text) // CHARACTERS, 2)

    def _by_request(self, queries: Iterable[Query]) -> dict[str, list[Query]]:
        """The queries by what is asked, which is the same whatever of `OPTIONAL` the server turns out to take."""
        waiting: dict[str, list[Query]] = {}
        for query in queries:
            asked = self._request(query, frozenset())
            waiting.setdefault(request_hash(self._chat.address, self.model, asked), []).append(query)
        return waiting

    def _request(self, query: Query, refused: frozenset[str]) -> dict[str, Any]:
        usual = {"messages": self._dialect.messages(query), "temperature": 0, "max_tokens": self._max_tokens}
        if form := self._dialect.form(query):
            usual["response_format"] = form
        for name in refused & usual.keys():
            value = usual.pop(name)
            usual |= {OPTIONAL[name]: value} if OPTIONAL[name] else {}
        own = {key: value for key, value in usual.items() if key not in self._extra}
        sent = {key: value for key, value in self._extra.items() if value is not None}
        return own | ({"extra_body": sent} if sent else {})

    def _outcomes(self, waiting: dict[str, list[Query]]) -> Iterator[tuple[str, Reply | Failure]]:
        """Ask, the first call alone: by it is found out what the server takes."""
        rest = dict.fromkeys(waiting)
        if self._batch:
            # An answer takes a day: what a server may refuse is not tried.
            self._refused = frozenset({"response_format"})
        elif waiting:
            first = next(iter(waiting))
            yield first, self._first(first, waiting[first][0])
            del rest[first]
        # Requests are made when their calls start, and forgotten: all at once they would weigh as much as the data.
        calls = ((key, lambda key=key: self._request(waiting[key][0], self._refused)) for key in rest)
        with closing(self._chat.ask(calls)) as outcomes:
            yield from outcomes

    def _first(self, request: str, query: Query) -> Reply | Failure:
        """The outcome of the first call; what of it the server refuses is left out, and remembered in the store."""
        refused = self._refused
        while True:
            ((_, outcome),) = self._chat.ask([(request, partial(self._request, query, refused))])
            if not (isinstance(outcome, Failure) and outcome.request_at_fault):
                break
            sent = [name for name in OPTIONAL if name in self._request(query, refused)]
            if not sent:
                return outcome  # they are not to blame
            refused |= {outcome.parameter if outcome.parameter in sent else sent[0]}
        if isinstance(outcome, Reply) and refused != self._refused:
            self._store.add({"request": self._memory, "reply": " ".join(sorted(refused))})
        self._refused = refused
        return outcome

    def _verdicts(self, queries: list[Query], kept: Kept) -> Iterator[tuple[Query, Verdict]]:
        for query in queries:
            reading = self._dialect.read(query, kept.reply, kept.finish)
            yield query, Verdict(kept.reply, *reading, by=(kept.answered_by, kept.fingerprint))

    def _take(self, request: str, queries: list[Query], outcome: Reply | Failure) -> Kept:
        """What was said, put into the store, and what it cost to the account."""
        if isinstance(outcome, Reply) and not outcome.text.strip() and outcome.finish_reason != "content_filter":
            # Kept, it would be read as no verdict for ever. Only words that are known are shown of a server's.
            reason = outcome.finish_reason if outcome.finish_reason in REASONS else "no known reason"
            more = "; give it room with --judge_max_tokens" if reason == "length" else ""
            outcome = Failure(f"empty reply ({reason}{more})", request_at_fault=False)
        if isinstance(outcome, Failure):
            self.failures[outcome.kind] += 1
            return Kept(FAILED)
        finish = outcome.finish_reason if outcome.finish_reason in REASONS else None
        kept = Kept(outcome.text, finish, outcome.model, outcome.fingerprint)
        self.spent += Spent(1, outcome.prompt_tokens or 0, outcome.completion_tokens or 0)
        self._store.add(
            {
                "request": request,
                "judge": self.name,
                "model": self.model,
                "prompt": self._dialect.prompt,
                **kept._asdict(),
                "verdicts": {query.metric: verdict.value for query, verdict in self._verdicts(queries, kept)},
                "prompt_tokens": outcome.prompt_tokens,
                "completion_tokens": outcome.completion_tokens,
                "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )
        return kept
