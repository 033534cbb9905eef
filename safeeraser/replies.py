"""The outcome of a call to a chat server: a reply or a failure.

No text from a server or an exception is shown, because servers often repeat a wrong key, and the prompt.
"""

import re
from dataclasses import dataclass, field, replace
from typing import Any

import openai
from openai.types.chat import ChatCompletion

# Statuses that the same request gets again. 429, and 500 upwards, come from the server's state instead.
_AT_FAULT = (400, 413, 422)
FILTERED = "the server's filter stopped it"  # a kind of failure: the prompt does not reach the model
GARBAGE = "no chat completion"  # a kind of failure: status 200, but an answer that cannot be read


@dataclass(frozen=True)
class Reply:
    """A call that was answered. A field that the server did not send is None, except the text, which is then empty.

    `seconds` runs from the first attempt to the answer, with every wait and retry between; None where nobody waited.
    `finish_reason` is `content_filter` also where the protocol's field `refusal` takes the place of the text.
    """

    text: str
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    finish_reason: str | None
    fingerprint: str | None = None


@dataclass(frozen=True)
class Failure:
    """A call that failed after its retries.

    `kind` holds no text from a server, so it is safe to show. `request_at_fault`: asking again is of no use.
    `parameter`: the one that the server blames, if it names one. `server_at_fault`: the status is 500 or above.
    """

    kind: str
    request_at_fault: bool
    parameter: str | None = None
    server_at_fault: bool = field(default=False, compare=False)


def read_body(body: Any) -> Reply | Failure:
    """The outcome of a call whose answer was read from a file, as the JSON value `body`, not received by the client."""
    try:
        answer: object = ChatCompletion.construct(**body)  # as the client does, so that both are read alike
    except Exception:  # `body` may be anything, like a server's answer
        answer = None
    return outcome(answer, None)


def outcome(answer: object, seconds: float | None) -> Reply | Failure:
    """The reply or failure that the client's answer or exception amounts to."""
    if isinstance(answer, openai.APIStatusError):
        at_fault = answer.status_code in _AT_FAULT
        if at_fault and answer.code == "content_filter":
            return Failure(FILTERED, request_at_fault=True)
        kind = f"{type(answer).__name__} (HTTP {answer.status_code})"
        parameter = plain(answer.param) if at_fault else None
        return Failure(kind, at_fault, parameter, server_at_fault=answer.status_code >= 500)
    if isinstance(answer, openai.APIConnectionError):
        return Failure(type(answer).__name__, request_at_fault=False)
    try:
        return _read(answer, seconds)
    except (AttributeError, IndexError, KeyError, TypeError):
        return Failure(GARBAGE, request_at_fault=False)


def plain(value: object) -> str | None:
    """A server's code or parameter name if it is a plain word, else None: no text from a server is shown."""
    return value if isinstance(value, str) and re.fullmatch(r"[a-z_.]{1,40}", value) else None


def discreet(reply: Reply | Failure, key: str) -> Reply | Failure:
    """The reply with the API key masked in its text; model and fingerprint stay only if they look like names."""

    def name(value: str | None) -> str | None:
        return value if value and re.fullmatch(r"[\w.:/@+-]{1,200}", value) and key not in value else None

    if isinstance(reply, Failure):
        return reply
    text = reply.text.replace(key, "[key]") if len(key) > len("none") else reply.text
    return replace(reply, text=text, model=name(reply.model), fingerprint=name(reply.fingerprint))


def _read(completion: Any, seconds: float | None) -> Reply:
    """The reply in a completion. The client checks no types, so a field of another type counts as not sent."""

    def of(kind: type, value: object) -> Any:
        return value if isinstance(value, kind) else None

    choice, usage = completion.choices[0], getattr(completion, "usage", None)
    text, refusal = choice.message.content, of(str, getattr(choice.message, "refusal", None))
    if text is not None and not isinstance(text, str):
        raise TypeError
    return Reply(
        text=text or refusal or "",
        model=of(str, getattr(completion, "model", None)),
        prompt_tokens=of(int, getattr(usage, "prompt_tokens", None)),
        completion_tokens=of(int, getattr(usage, "completion_tokens", None)),
        seconds=seconds,
        finish_reason="content_filter" if refusal and not text else of(str, getattr(choice, "finish_reason", None)),
        fingerprint=of(str, getattr(completion, "system_fingerprint", None)),
    )
