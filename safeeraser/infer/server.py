"""An engine of the user's own: requests go, pictures included, to a server that speaks the OpenAI protocol."""

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

TIMEOUT = 600.0  # seconds; a busy server may take long until it begins with a request
SAMPLES, MANY = len(VIEWS["forget"].fields), 20  # so many questions whose samples are all the same are no accident
PICTURES = 64  # encoded pictures kept, since the questions on one follow each other


class Server:
    """Answers requests by asking the options' model of the server at their `base_url`.

    LLaVA-1.5's system text is sent along, so that a chat template that writes its form, as that of a merged model does,
    gives the prompt that the built-in engine uses; the template of another family says all itself. Each request carries
    a seed of its own; whether it decides what is drawn is the server's affair. Raises `BadInput` where the key or the
    address cannot be used.
    """

    batch_size = None  # the server's own affair

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
        # Where neither name nor folder gives a family, as behind a name of the server's own, it is LLaVA-1.5's.
        family = family_if_known(options.model_path)
        self._options, self._system = options, SYSTEM_TEXTS["user"] if family is None or family.chat else None

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        """Ask all requests; yields each with its response, or why there is none, as they come.

        Raises:
            BadInput: key, model or address are wrong, or the server stopped answering.
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
    """The picture as the built-in engine decodes it."""
    return data_url(show(picture))
