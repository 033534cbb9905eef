"""Who judges, and how: the options of all commands that have responses judged, and the `Judging` made from them."""

import math
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from safeeraser.arguments import count, json_object, one_of, option, options_in, without_credentials
from safeeraser.benchmark import wording
from safeeraser.benchmark.metrics import ASKED
from safeeraser.errors import BadInput
from safeeraser.judge.dialects import GENERAL, SERVED, prompts_version, read_guard
from safeeraser.judge.judge import Spent
from safeeraser.judge.offline import OFFLINE, OfflineJudge
from safeeraser.keys import given_key

JUDGES = (*SERVED, *OFFLINE)
FORMS = "each may be NAME, NAME:MODEL, NAME@ADDRESS or NAME:MODEL@ADDRESS"  # help of the group `judges`


@dataclass(frozen=True)
class Price:
    """The prices of a million prompt tokens and of a million reply tokens, in US dollars."""

    prompt: float
    completion: float

    def of(self, spent: Spent, *, share: float = 1.0) -> float:
        """The cost of `spent` in US dollars; `share` is the part of the price to pay after a discount."""
        return share * (spent.prompt_tokens * self.prompt + spent.completion_tokens * self.completion) / 1e6


def parse_price(text: str) -> Price:
    """The price in a text such as `2.5,10`. Raises `BadInput` for any other text."""
    try:
        prompt, completion = map(float, text.split(","))
        if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
            raise ValueError
    except ValueError:
        raise BadInput("--price: two numbers, as in 2.5,10: dollars a million tokens of prompts, of replies") from None
    return Price(prompt, completion)


@dataclass(frozen=True)
class Choice:
    """A judge as it is named on the command line: `NAME`, `NAME:MODEL`, `NAME@ADDRESS` or `NAME:MODEL@ADDRESS`."""

    name: str
    model: str | None = None
    base_url: str | None = field(default=None, repr=False)  # may hold credentials

    @classmethod
    def parse(cls, text: str) -> "Choice":
        """The choice in `text`. Raises `BadInput` for an unknown name, or a model or address that it cannot have."""
        rest, _, base_url = text.partition("@")
        name, _, model = rest.partition(":")
        choice = cls(one_of("judge", JUDGES)(name), model or None, base_url or None)
        if not choice.served and (model or base_url):
            raise BadInput(f"the judge {name} is not a model, so it takes neither model nor address")
        return choice

    @property
    def served(self) -> bool:
        """Whether it is a model behind a server."""
        return self.name in SERVED

    @property
    def as_json(self) -> dict[str, Any]:
        """The choice as results record it, without a user name and password that the address may contain."""
        return asdict(self) | {"base_url": without_credentials(self.base_url)}


COUNT: dict[str, Any] = {"type": count, "metavar": "N"}
_ANOTHER: dict[str, Any] = {"group": "judges", "type": Choice.parse, "metavar": "JUDGE"}


@dataclass(frozen=True)
class Judging:
    """Who judges, and how a judge behind a server is asked. The fields that are options hold the parsed values."""

    judge: Choice = Choice(GENERAL)
    judges: dict[str, Choice | None] = field(default_factory=dict)  # by metric, if another judge is named for it
    protocol: str = option(
        "official",
        type=one_of("protocol", ("official", "corrected")),
        group="judges",
        help="official: the release's statistics; corrected: replies asked for and read strictly, those without a "
        "verdict left out, blank responses counted as what they are, records paired by picture, GPT-Eval's two texts "
        "in their places (default: %(default)s)",
    )
    replies: Path | None = option(None, group="judges", help="recorded replies, for the judge replay")
    data: Path | None = None  # the file whose questions were answered; truth.json may lie next to it
    api_key: str | None = field(default=None, repr=False)
    max_tokens: int | None = None  # the limit of a reply; None: the default of the judge's kind
    concurrency: int = option(32, type=count, group="calls", help="calls at a time (default: %(default)s)")
    requests_per_minute: int | None = option(None, **COUNT, group="calls", help="calls a minute at most")
    extra_body: dict[str, Any] = option(
        {},
        type=json_object,
        metavar="JSON",
        group="calls",
        help="parameters of each call; null leaves one out: '{\"temperature\": null}'. The first call finds out "
        "which of response_format, max_tokens and temperature the model refuses",
    )
    store: Path = option(
        Path("results/verdicts.jsonl"), group="calls", help="every reply, for all runs (default: %(default)s)"
    )
    store_shared: bool = False  # several processes judge different requests at the same time
    batch: bool = option(
        False,
        group="calls",
        help="ask openai through its Batch API: half the price, within 24 hours; after a stop, the same command "
        "waits for the requests that it had submitted",
    )
    dry_run: bool = option(False, group="calls", help="print the calls, tokens and dollars it would take, and stop")
    price: Price | None = option(
        None,
        type=parse_price,
        metavar="IN,OUT",
        group="calls",
        help="US dollars for a million tokens of prompts, of replies",
    )

    @property
    def official(self) -> bool:
        """Whether to read replies, swap GPT-Eval's texts and leave out blank responses as the release does."""
        return self.protocol == "official"

    @property
    def price_share(self) -> float:
        """The share of the list price that is paid."""
        return 0.5 if self.batch else 1.0

    @property
    def choices(self) -> dict[str, Choice]:
        """The judge of each metric: the one named for it, or the main one."""
        return {metric: self.judges.get(metric) or self.judge for metric in ASKED}

    def make_offline(self, name: str) -> OfflineJudge:
        """The judge called `name`, which is no model. Raises `BadInput` if it lacks a file that it needs."""
        return OFFLINE[name](official=self.official, data=self.data, replies=self.replies)

    @property
    def versions(self) -> dict[str, Any]:
        """The versions of prompts and judges, as results record them; `guards` has judges that have no own key."""
        names = {choice.name for choice in self.choices.values()} - {GENERAL, "rules"}
        states = {
            name: (read_guard(name) if name in SERVED else self.make_offline(name)).version for name in sorted(names)
        }
        truth = {"truth": states.pop("truth")} if "truth" in states else {}
        guards = {name: version for name, version in states.items() if version}
        return {"prompts": prompts_version(), "rules": wording.version(), "guards": guards, **truth}

    @property
    def record(self) -> dict[str, Any]:
        """Everything that the verdicts depend on, except the responses, as results record it."""
        others = {metric: choice.as_json for metric, choice in self.judges.items() if choice}
        asked = {key: getattr(self, key) for key in ("protocol", "max_tokens", "extra_body")}
        return {"judge": self.judge.as_json, "judges": others, **asked, **self.versions}


@dataclass(frozen=True)
class JudgeWords:
    """The options that `make_judging` turns into the judges, the key and the length of a reply."""

    judge: Choice = option(
        Judging.judge, type=Choice.parse, group="judges", help=f"{', '.join(JUDGES)} (default: openai, model gpt-4o)"
    )
    judge_model: str | None = option(None, group="judges", help="the model that --judge asks")
    base_url: str | None = option(
        None, group="judges", help="the address of the server that --judge asks (default: OpenAI's)"
    )
    asr_judge: Choice | None = option(None, help="another judge for asr", **_ANOTHER)
    rr_judge: Choice | None = option(None, help="another judge for rr", **_ANOTHER)
    gpt_judge: Choice | None = option(None, help="another judge for gpt", **_ANOTHER)
    sarr_judge: Choice | None = option(None, help="another judge for sarr", **_ANOTHER)
    api_key: str | None = option(
        None,
        group="calls",
        help="key for the server (default: OPENAI_API_KEY of the environment; another server: KEY_FOR_HOST)",
    )
    api_key_file: Path | None = option(
        None, metavar="FILE", group="calls", help="a file that holds the key and nothing else"
    )
    judge_max_tokens: int | None = option(
        None,
        **COUNT,
        group="calls",
        help="tokens of a judge's reply; if it reasons first, thousands (default: 64; guards: in their file)",
    )


def make_judging(given: dict[str, Any], **more: Any) -> Judging:
    """The `Judging` that a command's parsed options give: all of `JudgeWords`, and any of `Judging`.

    Raises:
        BadInput: a judge that is no model has a model or address; `extra_body` has a reserved key; there are two keys.
    """
    judge, model, base_url = given["judge"], given["judge_model"], given["base_url"]
    if (model or base_url) and not judge.served:
        raise BadInput(f"--judge {judge.name} is not a model: --judge_model and --base_url have no meaning for it")
    if reserved := {"messages", "model", "stream"} & given["extra_body"].keys():
        raise BadInput(f"--extra_body: {min(reserved)} is this program's to set (the model: --judge_model)")
    made = {
        "judge": replace(judge, model=model or judge.model, base_url=base_url or judge.base_url),
        "judges": {metric: given[f"{metric}_judge"] for metric in ASKED},
        "api_key": given_key(given["api_key"], given["api_key_file"]),
        "max_tokens": given["judge_max_tokens"],
    }
    return Judging(**options_in(Judging, given) | made | more)
