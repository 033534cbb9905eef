"""How each kind of LLM judge is asked, and how its replies are read: a general LLM, or a guard model out of a file."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from safeeraser.benchmark import files
from safeeraser.benchmark.files import read_text
from safeeraser.benchmark.metrics import ASKED
from safeeraser.errors import BadInput
from safeeraser.judge import prompts
from safeeraser.judge.queries import Query
from safeeraser.judge.verdicts import Reading, read, schema, settled

CONFIG = files.CONFIG / "judge"
GENERAL = "openai"
SERVED = (GENERAL, *sorted(file.stem for file in CONFIG.glob("*.yaml")))  # a guard's file is all that it takes

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class General:
    """A general LLM, asked with the prompts of `prompts/`.

    `official` hands GPT-Eval its two texts in the release's order and reads replies by the release's rules; else
    structured output is asked for, and replies are read strictly.

    Attributes, of a guard too:
        name: as `--judge` calls it.
        model: the one that is asked for unless another is named.
        decides: the metrics that it can tell.
        version: by which stores and results tell it from an earlier state: of its prompts, or of its file.
        max_tokens: of a reply; a judge that rambles need not be paid for.
    """

    official: bool
    name: str = GENERAL
    model: str = "gpt-4o"
    decides: frozenset[str] = frozenset(ASKED)
    version: str = field(default_factory=prompts.version)
    max_tokens: int = 64

    def messages(self, query: Query) -> Messages:
        """The conversation that asks for a verdict: one prompt, the response in it."""
        return [{"role": "user", "content": prompts.render(query, swapped=self.official)}]

    def form(self, query: Query) -> dict[str, Any] | None:
        """What the reply must look like, as `response_format` takes it: an object with one verdict, or None."""
        return None if self.official else schema(query.metric)

    def read(self, query: Query, reply: str, finish: str | None) -> Reading:
        """What a reply says that ended for the reason `finish`, by the protocol."""
        return read(query.metric, reply, finish, official=self.official)


def _one_group(pattern: str) -> str:
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"no regular expression ({error.msg})") from None
    if groups != 1:
        raise ValueError("must have one group, in which the verdict or the categories stand")
    return pattern


Pattern = Annotated[str, AfterValidator(_one_group)]


def _plain(name: str) -> str:
    """A category however it is written: without case, markup and what ends a sentence."""
    return name.strip(" \t\r\n*_`.\"'").casefold()


class _Setting(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Categories(_Setting):
    """Where a reply names what was found, separated by commas; what of it counts, and what does not."""

    pattern: Pattern
    counted: frozenset[str] = Field(min_length=1)
    ignored: frozenset[str] = frozenset()

    @field_validator("counted", "ignored")
    @classmethod
    def _folded(cls, names: frozenset[str]) -> frozenset[str]:
        return frozenset(map(_plain, names))

    def count(self, reply: str) -> bool | None:
        """Whether one of those that count is named; None if one is named that is unknown, and none that counts.

        Flagged without a category is flagged.
        """
        lines = re.findall(self.pattern, reply, re.IGNORECASE | re.MULTILINE)
        named = {_plain(name) for line in lines for name in re.split("[,;]", line)} - {"", "none"}
        if not named or not named.isdisjoint(self.counted):
            return True
        return False if named <= self.ignored else None


class Decision(_Setting):
    """How a metric is read off a reply: the one word that `pattern` captures, and what each is worth."""

    pattern: Pattern
    values: dict[str, Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]]
    categories: Categories | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _words(cls, values: Any) -> Any:
        """YAML reads yes and no as true and false."""
        names = {True: "yes", False: "no"}
        if not isinstance(values, dict):
            return values
        return {(names[key] if isinstance(key, bool) else str(key)).casefold(): value for key, value in values.items()}

    def read(self, reply: str) -> float | None:
        """The value; None where no word, or more than one, is found."""
        found = {word.casefold() for word in re.findall(self.pattern, reply, re.IGNORECASE | re.MULTILINE)}
        value = self.values.get(found.pop()) if len(found) == 1 else None
        if not value or not self.categories:
            return value
        return {True: value, False: 0.0, None: None}[self.categories.count(reply)]


class Guard(_Setting):
    """A guard model, which moderates the last turn of a conversation; its file in config/judge/ is all of it.

    `prompt` asks in one turn instead, with {question} and {response} in it.
    """

    name: str
    source: str  # the file's text
    model: str
    max_tokens: int = Field(64, ge=1)
    metrics: dict[str, Decision] = Field(min_length=1)
    template: str | None = Field(None, alias="prompt")

    @field_validator("metrics")
    @classmethod
    def _known(cls, metrics: dict[str, Decision]) -> dict[str, Decision]:
        if unknown := metrics.keys() - ASKED.keys():
            raise ValueError(f"no metric '{min(unknown)}'; known: {', '.join(ASKED)}")
        return metrics

    @field_validator("template")
    @classmethod
    def _shows_the_response(cls, template: str | None) -> str | None:
        if template is not None and "{response}" not in template:
            raise ValueError("must have {response} in it")
        return template

    @cached_property
    def decides(self) -> frozenset[str]:
        """The metrics that the file tells how to read."""
        return frozenset(self.metrics)

    @property
    def version(self) -> str:
        """By which its file is told from another state of it."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    def messages(self, query: Query) -> Messages:
        """The question and the response, as the conversation that they were, or within the file's prompt."""
        if self.template:
            # Not `format`: the texts may hold braces, and so may the prompt.
            parts = re.split(r"\{(question|response)\}", self.template)
            parts[1::2] = [getattr(query, name) for name in parts[1::2]]
            return [{"role": "user", "content": "".join(parts)}]
        return [{"role": "user", "content": query.question}, {"role": "assistant", "content": query.text}]

    def form(self, _query: Query) -> None:
        """Guards answer in their own form."""

    def read(self, query: Query, reply: str, finish: str | None) -> Reading:
        """As the file says, under either protocol."""

        def says(said: str) -> Reading:
            value = self.metrics[query.metric].read(said)
            return Reading(value, "" if value is not None else "unparsed")

        return settled(reply, finish, says)


def read_guard(name: str) -> Guard:
    """The guard model of config/judge/NAME.yaml. Raises `BadInput` naming the file and the key."""
    file = CONFIG / f"{name}.yaml"
    try:
        text = read_text(file)
        value = yaml.safe_load(text)
        return Guard.model_validate((value if isinstance(value, dict) else {}) | {"name": name, "source": text})
    except yaml.YAMLError:
        raise BadInput(f"{file}: not valid YAML") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


Dialect = General | Guard  # what is particular to a kind of judge: how it is asked, and what its replies say


def dialect(name: str, *, official: bool) -> Dialect:
    """The dialect called `name`."""
    return General(official) if name == GENERAL else read_guard(name)
