"""The engine for a server of the user's own: it sends requests and pictures by the OpenAI protocol."""

import functools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from safeeraser.benchmark.conversation import SYSTEM_TEXTS
from safeeraser.benchmark.pictures import data_url
from safeeraser.benchmark.responses import VIEWS
from safeeraser.chat import Chat
from safeeraser.generation.sampling import request_seed
from safeeraser.infer.options import Options
from safeeraser.infer.requests import Redrawn, Request, Unanswered, show
from safeeraser.keys import openai_key, read_key
from safeeraser.model.load import family_if_known
from safeeraser.replies import Reply

log = logging.getLogger(__name__)

TIMEOUT = 600.0  # seconds; a busy server may take long to begin with a request
SAMPLES, MANY = len(VIEWS["forget"].fields), 20  # equal samples for so many questions are no accident
PICTURES = 64  # encoded pictures to keep, because the questions about one follow each other


class Server:
    """Answers requests by asking the options' model on the server at their `base_url`.

    Requests to LLaVA-1.5 carry its system text. A chat template of LLaVA-1.5's form, which a merged model has, then
    gives the same prompt as the built-in engine. The templates of other families need no text from here. Each request
    has its own seed, but the server decides whether sampling depends on it. Raises `BadInput` if the key or the address
    cannot be used.
    """

    batch_size = None  # the server decides

    def __init__(self, options: Options) -> None:
        key = read_key(None, options.base_url, variables=openai_key(options.base_url), who="the server")
        self._chat: Chat[Request] = Chat(
            options.model_path,
            api_key=key,
            base_url=options.base_url,
            concurrency=options.concurrency,
            who="the server",
            timeout=TIMEOUT,
        )
        # A model whose name and folder reveal no family, such as a name that a server made up, is treated as LLaVA-1.5.
        family = family_if_known(options.model_path)
        self._options, self._system = options, SYSTEM_TEXTS["user"] if family is None or family.chat else None

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        """Ask all requests; yield each with its response, or with the reason why there is none, as they finish.

        Raises:
            BadInput: the key, the model or the address is wrong, or the server stopped answering.
        """
        calls = ((request, functools.partial(self._body, request)) for request in requests)
        samples: dict[tuple[Path | Redrawn | None, str], list[str | Unanswered]] = defaultdict(list)
        with closing(self._chat.ask(calls)) as outcomes:
            for request, outcome in outcomes:
                said = outcome.text.strip() if isinstance(outcome, Reply) else Unanswered(outcome.kind)
                samples[request.picture, request.question].append(said)
                yield [(request, said)]
        several = [texts for texts in samples.values() if len(texts) == SAMPLES]
        sampled = not self._options.generation.greedy
        if sampled and len(several) >= MANY and all(len(set(texts)) == 1 for texts in several):
            log.warning(
                "note: the %d samples of each question are the same: the server does not sample; look for the "
                "option that makes it sample, and send it with --extra_body",
                SAMPLES,
            )

    def _body(self, request: Request) -> dict[str, Any]:
        text = request.system or self._system
        system = [{"role": "system", "content": text}] if text else []
        content: list[dict[str, Any]] = [{"type": "text", "text": request.question}]
        if request.picture:
            content.insert(0, {"type": "image_url", "image_url": {"url": _data_url(request.picture)}})
        how = self._options.generation
        drawn: dict[str, float] = {"temperature": 0}
        if not how.greedy:
            seed = request_seed(how.seed, request.key) >> 32  # servers take 31 bits
            drawn = {"temperature": how.temperature, "top_p": how.top_p, "seed": seed}
        return {
            "messages": [*system, {"role": "user", "content": content}],
            "max_tokens": how.max_new_tokens,
            **drawn,
            "extra_body": self._options.extra_body,
        }


@functools.lru_cache(PICTURES)
def _data_url(picture: Path | Redrawn) -> str:
    """The picture as a data URL, decoded as by the built-in engine."""
    return data_url(show(picture))
