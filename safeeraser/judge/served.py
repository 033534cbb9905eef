"""LLM judges, over the OpenAI protocol: OpenAI itself, or a server of one's own (vLLM, llama.cpp, Ollama)."""

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from datetime import date
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from safeeraser.benchmark.pictures import data_url, find_picture, open_picture
from safeeraser.benchmark.truth import TRUTH
from safeeraser.chat import Chat
from safeeraser.errors import BadInput, note
from safeeraser.judge.batch import BatchChat
from safeeraser.judge.dialects import GENERAL, make_dialect
from safeeraser.judge.judge import FAILED, WHOLE, Judge, Query, Spent, Verdict
from safeeraser.judge.judging import Choice, Judging
from safeeraser.judge.store import Kept, Store, request_hash
from safeeraser.keys import NONE, OF_HOST, OPENAI_KEY, ApiKey, address_of, host_of, is_openai, openai_key, read_key
from safeeraser.replies import FILTERED, Failure, Reply

TIMEOUT = 600.0  # seconds of silence, in a local server's queue too, after which an attempt is given up
CHARACTERS = 4  # of English text per token, roughly
PICTURE = 765  # tokens per picture, as OpenAI counts 1024 x 1024 pixels
PICTURES = 64  # encoded pictures to keep, because the queries about one follow each other
REASONS = ("stop", "length", "content_filter")  # the protocol's reasons why a reply ends
# Parameters that not every server or model takes, the likeliest to be refused first, and the parameter to send instead.
OPTIONAL = {"response_format": None, "max_tokens": "max_completion_tokens", "temperature": None}
ENDS = {"gpt-4o": date(2027, 1, 14)}  # models that OpenAI takes off its API, with the announced dates
NOTICE = 90  # a note is printed from so many days before the date


class ServedJudge(Judge):
    """Asks a model at temperature 0. Equal requests are asked once, and requests with a reply in the store not at all.

    A call that fails after its retries gives a failed verdict. It is not stored, so the same command asks it again.
    """

    model: str

    def __init__(self, choice: Choice, judging: Judging) -> None:
        if choice.name != GENERAL and not choice.base_url:
            raise BadInput(f"the judge {choice.name} runs on a server of your own: give its address with --base_url")
        key = ApiKey(NONE) if judging.dry_run else read_judge_key(choice, judging)
        self._dialect = make_dialect(choice.name, official=judging.official)
        self.name, self.decides, self.version = choice.name, self._dialect.decides, self._dialect.version
        self.model = choice.model or self._dialect.model
        if is_openai(address_of(choice.base_url)) and (end := leaving(self.model, date.today())):
            note(end)
        self._store = Store(judging.store, shared=judging.store_shared)
        server: dict[str, Any] = {"api_key": key, "base_url": choice.base_url, "timeout": TIMEOUT}
        server |= {"concurrency": judging.concurrency, "requests_per_minute": judging.requests_per_minute}
        self._chat: Chat[str] = (
            BatchChat(self.model, store=self._store, **server) if judging.batch else Chat(self.model, **server)
        )
        self._extra, self._batch, self._data = judging.extra_body, judging.batch, judging.data
        self._max_tokens = judging.max_tokens or self._dialect.max_tokens
        self._memory = {name: request_hash("refused", self._chat.address, self.model, name) for name in OPTIONAL}
        self.failures: Counter[str] = Counter()

    def ask(self, queries: Iterable[Query]) -> Iterator[tuple[Query, Verdict]]:
        """Yield each query with its verdict: first from replies in the store, then as calls finish.

        Raises:
            BadInput: the key, the model or the address is wrong, which no retry mends. Replies so far are kept.
        """
        waiting = self._by_request(queries)
        with self._store.held():
            known = self._store.find({*waiting, *self._memory.values()})
            self.refused = frozenset(name for name, key in self._memory.items() if known.pop(key, None))
            for request, kept in known.items():
                yield from self._verdicts(waiting.pop(request), kept)
            with closing(self._outcomes(waiting)) as outcomes:
                for request, outcome in outcomes:
                    yield from self._verdicts(waiting[request], self._take(request, waiting[request], outcome))

    def foresee(self, queries: Iterable[Query]) -> Iterator[tuple[str, Spent]]:
        """Yield the cost of each request that the store lacks, by metric; tokens are estimated from text lengths."""
        waiting = self._by_request(queries)
        known = self._store.find(waiting.keys())
        for request, same in waiting.items():
            if request not in known:
                text = "".join(message["content"] for message in self._dialect.messages(same[0]))
                shown = PICTURE if self._dialect.picture and same[0].picture else 0
                yield same[0].metric, Spent(1, len(text) // CHARACTERS + shown, 2)

    def _by_request(self, queries: Iterable[Query]) -> dict[str, list[Query]]:
        """The queries by the hash of their request, which does not depend on refused `OPTIONAL` parameters."""
        waiting: dict[str, list[Query]] = {}
        for query in queries:
            asked = self._request(query, frozenset())
            waiting.setdefault(request_hash(self._chat.address, self.model, asked), []).append(query)
        return waiting

    def _request(self, query: Query, refused: frozenset[str]) -> dict[str, Any]:
        usual = {"messages": self._messages(query), "temperature": 0, "max_tokens": self._max_tokens}
        if form := self._dialect.form(query):
            usual["response_format"] = form
        for name in refused & usual.keys():
            value = usual.pop(name)
            if other := OPTIONAL[name]:
                usual[other] = value
        body = {key: value for key, value in usual.items() if key not in self._extra}
        sent = {key: value for key, value in self._extra.items() if value is not None}
        return body | ({"extra_body": sent} if sent else {})

    def _messages(self, query: Query) -> list[dict[str, Any]]:
        """The conversation, with the picture before its first text if the judge sees pictures. The store keeps neither
        picture nor text, only a hash of the complete request."""
        first, *others = self._dialect.messages(query)
        if not (self._dialect.picture and query.picture):
            return [first, *others]
        file = find_picture(query.picture, self._data) if self._data else None
        if file is None:
            raise BadInput(f"the judge {self.name} sees pictures: {query.where}: picture {query.picture} not found")
        parts = [
            {"type": "image_url", "image_url": {"url": _encoded(file)}},
            {"type": "text", "text": first["content"]},
        ]
        return [first | {"content": parts}, *others]

    def _outcomes(self, waiting: dict[str, list[Query]]) -> Generator[tuple[str, Reply | Failure], None, None]:
        """Yield each request's outcome. The first call goes alone, to find out which parameters the server takes."""
        rest = dict.fromkeys(waiting)
        if waiting and not self._batch:
            first = next(iter(waiting))
            yield first, self._first(first, waiting[first][0])
            del rest[first]
        # A batch takes a day, so it does not try the parameter that a server may refuse.
        without = self.refused | {"response_format"} if self._batch else self.refused
        # Each request is made when its call starts, then dropped: all together would take as much memory as the data.
        calls = ((key, lambda key=key: self._request(waiting[key][0], without)) for key in rest)
        with closing(self._chat.ask(calls)) as outcomes:
            yield from outcomes

    def _first(self, request: str, query: Query) -> Reply | Failure:
        """The outcome of the first call; parameters that the server refuses are left out, and noted in the store.

        If the server did not name a parameter that it refused, it is asked once more with all parameters: something
        else may have been wrong for a moment.
        """

        def ask(refused: frozenset[str]) -> Reply | Failure:
            ((_, outcome),) = self._chat.ask([(request, partial(self._request, query, refused))])
            return outcome

        refused, blamed, outcome = self.refused, True, ask(self.refused)
        while isinstance(outcome, Failure) and (outcome.request_at_fault or outcome.server_at_fault):
            sent = [name for name in OPTIONAL if name in self._request(query, refused)]
            # A server that fails (HTTP 5xx) may be down, or may not know the form; no other parameter is suspected.
            suspects = sent if outcome.request_at_fault else [name for name in sent if name == "response_format"]
            if outcome.kind == FILTERED or not suspects or outcome.parameter not in (None, *suspects):
                return outcome  # optional parameters are not to blame
            blamed = blamed and outcome.parameter is not None
            refused |= {outcome.parameter or suspects[0]}
            outcome = ask(refused)
        if isinstance(outcome, Reply) and refused != self.refused:
            if not blamed and isinstance(again := ask(self.refused), Reply):
                return again
            for name in refused - self.refused:
                self._store.add({"request": self._memory[name], "reply": "refused"})
            self.refused = refused
        return outcome

    def _verdicts(self, queries: list[Query], kept: Kept) -> Iterator[tuple[Query, Verdict]]:
        for query in queries:
            reading = self._dialect.read(query, kept.reply, kept.finish)
            yield query, Verdict(**kept._asdict(), **reading._asdict())

    def _take(self, request: str, queries: list[Query], outcome: Reply | Failure) -> Kept:
        """Add a reply to the store, and its cost to `spent`; return it. A failed call is only counted."""
        if isinstance(outcome, Failure) and outcome.kind == FILTERED:
            outcome = Reply("", None, None, None, None, "content_filter")
        if isinstance(outcome, Reply) and not outcome.text.strip() and outcome.finish_reason != "content_filter":
            # An empty reply, if stored, would never get a verdict. A server's word is shown only if it is known.
            reason = outcome.finish_reason if outcome.finish_reason in REASONS else "no known reason"
            more = "; give it room with --judge_max_tokens" if reason == "length" else ""
            outcome = Failure(f"empty reply ({reason}{more})", request_at_fault=False)
        if isinstance(outcome, Failure):
            self.failures[outcome.kind] += 1
            return Kept(FAILED)
        finish = outcome.finish_reason
        known = finish in (*REASONS, *WHOLE)  # a server's word is stored only if it is known
        kept = Kept(outcome.text, finish if known else "unknown", outcome.model, outcome.fingerprint)
        self.spent += Spent(1, outcome.prompt_tokens or 0, outcome.completion_tokens or 0)
        self._store.add(
            {
                "request": request,
                "judge": self.name,
                "model": self.model,
                "prompt": self.version,
                **kept._asdict(),
                "verdicts": {query.metric: verdict.value for query, verdict in self._verdicts(queries, kept)},
                "prompt_tokens": outcome.prompt_tokens,
                "completion_tokens": outcome.completion_tokens,
                "seconds": None if outcome.seconds is None else round(outcome.seconds, 3),
                "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
        )
        return kept


@lru_cache(PICTURES)
def _encoded(file: Path) -> str:
    return data_url(open_picture(file))


def read_judge_key(choice: Choice, judging: Judging) -> ApiKey:
    """The key of a judge behind a server. The judge `openai` may use OpenAI's key at OpenAI, at `OPENAI_BASE_URL` and,
    if the main judge is `openai` too, at the main judge's address. A guard's key has a variable of its own.

    Raises:
        BadInput: a key was given for judges at several hosts, but a key belongs to one host; or a key is missing.
    """
    hosts = {host_of(address_of(each.base_url)) for each in judging.choices.values() if each.served}
    if judging.api_key and len(hosts) > 1:
        raise BadInput(
            f"--api_key, --api_key_file: a key belongs to one host, and the judges are at {', '.join(sorted(hosts))}: "
            f"set {OPENAI_KEY}, for a guard NAME_API_KEY, for any other {OF_HOST}HOST"
        )
    main, variables = judging.judge, [f"{choice.name.upper().replace('-', '_')}_API_KEY"]
    if choice.name == GENERAL:
        variables = openai_key(choice.base_url, main.base_url if main.name == GENERAL else None)
    keyless = "--judge rules needs none"
    if judging.data and judging.data.with_name(TRUTH).is_file():
        keyless = "--judge truth needs none, and knows the answers here"
    who = f"the judge {choice.name}"
    return read_key(judging.api_key, choice.base_url, variables=variables, who=who, otherwise=keyless)


def leaving(model: str, today: date) -> str | None:
    """A note that a model leaves OpenAI's API soon, or has left it; None otherwise."""
    end = next((end for name, end in ENDS.items() if model == name or model.startswith(f"{name}-20")), None)
    if end is None or (days := (end - today).days) > NOTICE:
        return None
    when = f"leaves OpenAI's API on {end}, in {days} days" if days > 0 else f"was to leave OpenAI's API on {end}"
    return f"{model} {when}; docs/guides/score-and-judge.md says how to bridge to another judge"
