"""What is to be reproduced: a page of config/reproduce/, and the command line on top of it."""

import os
import shlex
from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from safeeraser.arguments import Arguments, count_or
from safeeraser.benchmark.check import FILES
from safeeraser.benchmark.family import families
from safeeraser.benchmark.files import CONFIG, sha256
from safeeraser.benchmark.methods import pages, to_decouple
from safeeraser.benchmark.pages import read_keys, read_page
from safeeraser.errors import BadInput, nearest

VANILLA = "vanilla"  # the untouched model: a run without unlearning
METHODS = ("ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd")
SEED = 233  # the release's; a run of another one carries it in its name
# The commands that options can be handed on to.
PARTS = {"forget": "forget.py", "infer": "ckpt_infer.py", "score": "eval_all.py", "audit": "audit.py"}
PARTS |= {"specificity": "the step specificity", "build": "what makes the data (mini: safeeraser.mini.build)"}
OPTIONAL = ("specificity", "audit")


class Settings(BaseModel):
    """A page of config/reproduce/; mini.yaml says what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_family: str | None
    data: Path
    build: str | None
    page: str
    engine: Path | None
    judge: str
    beside: str | None
    steps: tuple[str, ...]
    specificity: str
    specificity_check: str | None
    checks: dict[str, str] = {}
    methods: str | None = None  # which pages of a user's own need not know, as they need not know checks
    forget_options: str
    infer_options: str
    score_options: str
    audit_options: str
    measured_forget: str
    measured_infer: str
    jobs: int | None
    environment: dict[str, str]
    note: str


@dataclass(frozen=True)
class Options:
    """What is to be done; the command line's help describes each."""

    model: str
    family: str
    model_path: str
    settings: Settings
    data: Path
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    judge: str
    out: Path
    jobs: int
    engine: Path | None
    optional: frozenset[str]
    more: dict[str, tuple[str, ...]]  # further options, by the command that gets them
    published: bool
    retry: bool

    @property
    def marks(self) -> Path:
        """Where it stands which steps are done, with their logs; not in the runs, which forget.py wants empty."""
        return self.out / "steps"

    @property
    def processes(self) -> int:
        """How many the engine starts."""
        return int(read_keys(self.engine).get("num_processes") or 1) if self.engine else 1

    @cached_property
    def data_hashes(self) -> dict[str, str]:
        """The data files by their hashes: what was finished on other data is not taken over."""
        return {name: sha256(self.data / name) for name in FILES}

    @property
    def environment(self) -> dict[str, str]:
        """What each command runs in; a variable of the user's own stays."""
        return self.settings.environment | os.environ | {"PYTHONUNBUFFERED": "1"}


def arguments(description: str | None) -> Arguments:
    """The command line."""
    parser = Arguments(prog="python -m safeeraser.reproduce", description=description)
    add = parser.add_argument
    add("--model", default="llava-1.5-7b", help="mini, or a page of config/model_family/ (default: %(default)s)")
    add("--methods", help="by name, vanilla among them (default: all nine; mini-small: five)")
    add("--seeds", default=str(SEED), help="of unlearning and of the responses (default: %(default)s)")
    add("--judge", metavar="JUDGE", help="as eval_all.py --judge takes it (default: openai; mini: truth)")
    add("--out", type=Path, metavar="FOLDER", help="where everything goes (default: results/reproduce/MODEL)")
    add("--jobs", type=count_or("auto"), metavar="N", help="runs at a time, sharing the GPUs (default: 1; mini: cores)")
    add("--accelerate_config", metavar="FILE", help="engine of unlearning and inference; none: one process")
    add("--specificity", action="store_true", help="measure Specificity too (mini: always)")
    add("--audit", action="store_true", help="audit each adapter too")
    add("--published", action="store_true", help="set the published figures beside the table")
    add("--data", type=Path, metavar="FOLDER", help="the benchmark (default: dataset; mini: dataset/mini)")
    add("--model_path", help="a folder, or a name on the hub (default: as the page of the model says)")
    add("--settings", type=Path, metavar="FILE", help="in place of the page in config/reproduce/")
    for part, what in PARTS.items():
        says = f"further options of {what}"
        add(f"--{part}_options", action="extend", type=shlex.split, default=[], metavar="WORDS", help=says)
    add("--retry", action="store_true", help="also steps that ended, but lacked something (exit code 3)")
    group = parser.add_argument_group("instead of working").add_mutually_exclusive_group()
    group.add_argument("--dry_run", action="store_true", help="check, measure a minute, print the plan, and stop")
    group.add_argument("--status", action="store_true", help="print what is done, and stop")
    return parser


def options_of(given: Namespace) -> Options:
    """What was asked. Raises `BadInput` where it cannot be meant."""
    settings = read_settings(given.settings or page_of(given.model))
    family = settings.model_family or given.model
    more = {part: joined(getattr(given, f"{part}_options")) for part in PARTS}
    if any(word.partition("=")[0] == "--api_key" for words in more.values() for word in words):
        raise BadInput("--api_key: not here, where it would stand in the process list; set OPENAI_API_KEY instead")
    return Options(
        model=given.model,
        family=family,
        model_path=model_path_of(given, family),
        settings=settings,
        data=given.data or settings.data,
        methods=methods_of(given.methods or settings.methods or " ".join((VANILLA, *METHODS))),
        seeds=seeds_of(given.seeds),
        judge=given.judge or settings.judge,
        out=place_of(given.out or Path("results", "reproduce", given.model)),
        jobs=given.jobs or settings.jobs or os.cpu_count() or 1,
        engine=engine_of(given.accelerate_config, settings),
        optional=frozenset(settings.steps) | {step for step in OPTIONAL if getattr(given, step)},
        more=more,
        published=given.published,
        retry=given.retry,
    )


def place_of(out: Path) -> Path:
    """`out`, if it is a folder that can be written to, or can be made."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise BadInput(f"--out {out}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"--out {out}: {there} cannot be written to")
    return out


def page_of(model: str) -> Path:
    """The page for a model: one that is named for it, or that of the real benchmark."""
    own = CONFIG / "reproduce" / f"{model}.yaml"
    return own if own.is_file() else own.with_name("real.yaml")


def read_settings(path: Path) -> Settings:
    """Raises `BadInput` naming the file and the key."""
    try:
        settings = Settings.model_validate(read_page(path, CONFIG / "reproduce"))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    if taken := settings.checks.keys() & {*PARTS, "unlearn"}:
        raise BadInput(f"{path}: checks: '{min(taken)}' is a step that there is already")
    for step in settings.steps:
        if step not in (known := (*OPTIONAL, *settings.checks)):
            raise BadInput(f"{path}: steps: no '{step}'; {nearest(step, known)}")
    return settings


def model_path_of(given: Namespace, name: str) -> str:
    """What was said, else what the model's page in config/model_family/ says."""
    pages = families()
    if name not in pages:
        models = {page for page, family in pages.items() if family.model_path}
        own = {path.stem for path in (CONFIG / "reproduce").glob("*.yaml")}
        raise BadInput(f"--model {name}: no such model; {nearest(name, models | own - {'real'})}")
    if path := given.model_path or pages[name].model_path:
        return path
    sizes = ", ".join(page for page, of in pages.items() if of.model_type == pages[name].model_type and of.model_path)
    raise BadInput(f"--model {name}: a family, none of its models; say --model_path, or one of {sizes}")


def methods_of(text: str) -> tuple[str, ...]:
    """Words, with spaces or commas between."""
    known = {VANILLA, *pages(), *to_decouple()}
    names = text.replace(",", " ").split()
    for name in names:
        if name not in known:
            raise BadInput(f"--methods: no method '{name}'; {nearest(name, known)}")
    if not names:
        raise BadInput("--methods: names none")
    return tuple(dict.fromkeys(names))


def seeds_of(text: str) -> tuple[int, ...]:
    """Whole numbers, with spaces or commas between."""
    words = text.replace(",", " ").split()
    if not words or not all(word.isdecimal() for word in words):
        raise BadInput("--seeds: must be whole numbers of at least 0")
    return tuple(dict.fromkeys(map(int, words)))


def engine_of(given: str | None, settings: Settings) -> Path | None:
    """The file that accelerate's launcher is given, if one is."""
    if given:
        if given != "none" and not Path(given).is_file():
            raise BadInput(f"--accelerate_config {given}: no such file")
        return None if given == "none" else Path(given)
    return settings.engine and CONFIG / settings.engine


def joined(words: list[str]) -> tuple[str, ...]:
    """Options as one word each, `--name=value`, so that a difference can be named by it."""
    found: list[str] = []
    for word in words:
        if found and found[-1].startswith("--") and "=" not in found[-1] and not word.startswith("-"):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return tuple(found)
