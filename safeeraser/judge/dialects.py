"""How each kind of LLM judge is asked, and how its replies are read.

A general LLM is asked with prompts rendered from the templates in `prompts/`, a guard as its config file says.
"""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from pydantic import AfterValidator, Field, field_validator

from safeeraser.benchmark import files
from safeeraser.benchmark.files import read_text
from safeeraser.benchmark.judged import WORDS
from safeeraser.benchmark.metrics import ASKED
from safeeraser.benchmark.pages import Keys, checked
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.errors import BadInput, nearest
from safeeraser.judge.judge import Query, Reading, read_reply, read_whole

PROMPTS = Path(__file__).parent / "prompts"
_TEMPLATES = Environment(loader=FileSystemLoader(PROMPTS), undefined=StrictUndefined, trim_blocks=True)
CONFIG = files.CONFIG / "judge"
GENERAL = "openai"
SERVED = (GENERAL, *sorted(file.stem for file in CONFIG.glob("*.yaml")))  # a config file is all that a guard requires


def render_prompt(query: Query, *, swapped: bool) -> str:
    """The prompt of a query: from one template each for `rr`, `sarr` and `gpt`, and one per category for `asr`.

    `swapped` exchanges the model's prediction and GPT-Eval's reference, as the release does (protocol `official`). The
    judge then looks for the prediction's facts in the reference.

    Raises:
        BadInput: there is no ASR prompt for the query's category.
    """
    name, shown = query.metric, {"response": query.text}
    if query.metric == "gpt":
        texts = (query.text, query.reference) if swapped else (query.reference, query.text)
        shown = dict(zip(("question", "reference", "candidate"), (query.question, *texts), strict=True))
    elif query.metric == "asr":
        # Some copies of the data spell folders, and so categories, with other capital letters.
        known = {category.lower(): category for category in CATEGORIES}
        if query.category.lower() not in known:
            raise BadInput(f"no judge prompt for category '{query.category}'; {nearest(query.category, CATEGORIES)}")
        name = f"asr/{known[query.category.lower()]}"
    return _TEMPLATES.get_template(f"{name}.j2").render(shown, mark=boundary(*shown.values()))


def boundary(*texts: str) -> str:
    """The name of the lines that enclose a text in the judge's prompt; none of the texts contains it.

    It is made from the texts, so equal requests give equal prompts. The writer of a response cannot know it in advance.
    """
    number, joined = 0, "\n".join(texts)
    while (mark := f"text-{hashlib.sha256(f'{number}{joined}'.encode()).hexdigest()[:12]}") in joined:
        number += 1
    return mark


@cache
def prompts_version() -> str:
    """A hash by which results and stores recognise the prompts; changing any word changes it."""
    digest = hashlib.sha256()
    for file in sorted(PROMPTS.rglob("*.j2")):
        digest.update(f"{file.relative_to(PROMPTS)}\n{file.read_text(encoding='utf-8')}".encode())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class General:
    """A general LLM, asked with the prompts of `prompts/`.

    With `official`, GPT-Eval's two texts come in the release's order, and replies are read by the release's rules.
    Otherwise the judge is asked for structured output, and replies are read strictly.

    Attributes, which a guard has too:
        model: the model to ask unless another is named.
        decides: the metrics that the judge can decide.
        version: a hash of its prompts or config file, by which stores and results distinguish its states.
        max_tokens: the limit of a reply, so that nobody pays for a judge that rambles.
        picture: whether the judge is sent the picture that was shown.
    """

    official: bool
    model: str = "gpt-4o"
    decides: frozenset[str] = frozenset(ASKED)
    version: str = field(default_factory=prompts_version)
    max_tokens: int = 64
    picture: ClassVar[bool] = False

    def messages(self, query: Query) -> list[dict[str, str]]:
        """The conversation that asks for a verdict: one prompt, which contains the response."""
        return [{"role": "user", "content": render_prompt(query, swapped=self.official)}]

    def form(self, query: Query) -> dict[str, Any] | None:
        """The reply's form for `response_format`: a JSON object with one verdict; None under protocol `official`."""
        if self.official:
            return None
        # Without bounds for a number: not every server takes them, and `read` checks them anyway.
        kind = {"type": "number"} if query.metric == "gpt" else {"type": "string", "enum": list(WORDS[query.metric])}
        verdict = {"type": "object", "properties": {"verdict": kind}, "required": ["verdict"]}
        schema = verdict | {"additionalProperties": False}
        return {"type": "json_schema", "json_schema": {"name": "verdict", "strict": True, "schema": schema}}

    def read(self, query: Query, reply: str, finish: str | None) -> Reading:
        """The reading of a reply under the protocol; `finish` is the reason why the reply ended."""
        return read_reply(query.metric, reply, finish, official=self.official)


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
    """A category's name in one spelling: without case, and without markup, quotes and full stops at its ends."""
    return name.strip(" \t\r\n*_`.\"'").casefold()


Word = Annotated[str, AfterValidator(str.casefold)]
Names = Annotated[frozenset[str], AfterValidator(lambda names: frozenset(map(_plain, names)))]


class Categories(Keys):
    """The categories in a reply, between commas or semicolons: where they are, which count, which are ignored."""

    pattern: Pattern
    counted: Names = Field(min_length=1)
    ignored: Names = frozenset()

    def count(self, reply: str) -> bool | None:
        """Whether the reply names a category that counts, or none at all; None if one is unknown and none counts.

        So a reply that flags a response without naming a category counts.
        """
        lines = re.findall(self.pattern, reply, re.IGNORECASE | re.MULTILINE)
        named = {_plain(name) for line in lines for name in re.split("[,;]", line)} - {"", "none"}
        if not named or not named.isdisjoint(self.counted):
            return True
        return False if named <= self.ignored else None


class Decision(Keys):
    """How a metric is read from a reply: `pattern` captures one word, and `values` has the value of each word."""

    pattern: Pattern
    values: dict[Word, Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]]
    categories: Categories | None = None

    def read(self, reply: str) -> float | None:
        """The value; None without a known word, with several different words, or if the categories do not decide."""
        found = {word.casefold() for word in re.findall(self.pattern, reply, re.IGNORECASE | re.MULTILINE)}
        value = self.values.get(found.pop()) if len(found) == 1 else None
        if not value or not self.categories:
            return value
        return {True: value, False: 0.0, None: None}[self.categories.count(reply)]


class Guard(Keys):
    """A guard model, which moderates the last turn of a conversation, as its config file in config/judge/ describes it.

    A `prompt` asks it in one turn instead, and contains {question} and {response}. `picture` shows it the picture too.
    """

    name: str
    source: str  # the file's text
    model: str
    max_tokens: int = Field(64, ge=1)
    picture: bool = False
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

    @property
    def decides(self) -> frozenset[str]:
        """The metrics that the config file says how to read."""
        return frozenset(self.metrics)

    @property
    def version(self) -> str:
        """A hash of the config file's text."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:12]

    def messages(self, query: Query) -> list[dict[str, str]]:
        """The question and the response, as the original conversation or within the config file's prompt."""
        if self.template:
            # Not `format`: the texts and the prompt may contain braces.
            parts = re.split(r"\{(question|response)\}", self.template)
            parts[1::2] = [getattr(query, name) for name in parts[1::2]]
            return [{"role": "user", "content": "".join(parts)}]
        return [{"role": "user", "content": query.question}, {"role": "assistant", "content": query.text}]

    def form(self, _query: Query) -> None:
        """None, because guards answer in their own form."""

    def read(self, query: Query, reply: str, finish: str | None) -> Reading:
        """Read a reply as the config file says, under either protocol."""
        decision = self.metrics[query.metric]
        return read_whole(reply, finish, lambda said: Reading.of(decision.read(said)))


def read_guard(name: str) -> Guard:
    """The guard model of config/judge/NAME.yaml. Raises `BadInput` naming the file and the key."""
    file = CONFIG / f"{name}.yaml"
    text = read_text(file)
    try:
        value = yaml.load(text, yaml.BaseLoader)  # words stay words: YAML's own types would read `no` as false
    except yaml.YAMLError:
        raise BadInput(f"{file}: not valid YAML") from None
    return checked(Guard, (value if isinstance(value, dict) else {}) | {"name": name, "source": text}, file)


def make_dialect(name: str, *, official: bool) -> General | Guard:
    """The dialect of the judge called `name`: how it is asked, and how its replies are read."""
    return General(official) if name == GENERAL else read_guard(name)
