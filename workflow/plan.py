"""What is to be done: a config file of workflow/config/ and the user's choices make runs, and each run's commands.

The Snakefile reads it, and so does door.py, which checks all of it first. Commands run in the checkout.
"""

import shlex
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from safeeraser.benchmark.check import FILES
from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.methods import pages, to_decouple
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.benchmark.pages import read_keys
from safeeraser.errors import BadInput, nearest

ROOT = Path(__file__).resolve().parents[1]
VANILLA = "vanilla"  # the untouched model: a run without unlearning
METHODS = (VANILLA, "ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd")
SEED = 233  # the release's; a run of another one carries it in its name
OPTIONAL = ("specificity", "audit")
PASSED, LACKING = (0, 3), 3  # exit codes: what follows may begin; it is through, but lacks something

Words = tuple[str, ...]


class Run(NamedTuple):
    """A method with a seed."""

    name: str
    method: str
    seed: int


class Plan(BaseModel):
    """A config file with the user's choices; workflow/config/mini.yaml says what each key means."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model_family: str
    model_path: str
    data: str
    build: str | None
    page: str
    engine: str | None
    judge: str
    beside: str | None
    methods: str | None = None
    seeds: str = str(SEED)
    steps: tuple[str, ...]
    specificity: str
    specificity_check: str | None
    checks: dict[str, str] = {}
    build_options: str = ""
    forget_options: str
    infer_options: str
    score_options: str
    specificity_options: str = ""
    audit_options: str
    measured_forget: str
    measured_infer: str
    jobs: int | None
    environment: dict[str, str]
    note: str
    published: bool = False
    checkpoints: bool = False  # a training's stay when it is through
    out: str | None = None  # the results' folder, seen from the checkout; None: the one that Snakemake works in
    gpu: int = 0  # GPUs of a step that runs a model

    @cached_property
    def runs(self) -> dict[str, Run]:
        """By name, seed by seed, in the methods' order. Raises `BadInput`."""
        seeds, known = split(self.seeds), {VANILLA, *pages(), *to_decouple()}
        if not seeds or not all(word.isdecimal() for word in seeds):
            raise BadInput("--seeds: must be whole numbers of at least 0")
        if not (methods := split(self.methods or " ".join(METHODS))):
            raise BadInput("--methods: names none")
        for name in methods:
            if name not in known:
                raise BadInput(f"--methods: no method '{name}'; {nearest(name, known)}")
        names = [(name, int(seed)) for seed in seeds for name in methods]
        runs = [Run(name if seed == SEED else f"{name}-seed{seed}", name, seed) for name, seed in names]
        return {run.name: run for run in runs}

    @property
    def processes(self) -> int:
        """How many the engine starts."""
        return int(read_keys(Path(self.engine)).get("num_processes") or 1) if self.engine else 1

    def commands(self, run: Run) -> dict[str, Words]:
        """The commands of a run by its steps' names; `{run}` is its folder, so that results may be moved."""
        return dict(self._commands(run))

    def _commands(self, run: Run) -> Iterator[tuple[str, Words]]:
        adapter = () if run.method == VANILLA else ("--checkpoint_path={run}",)
        model, seed = f"--model_path={self.model_path}", f"--seed={run.seed}"
        if adapter:
            # The engine is one of its words, since it decides how many items a step takes.
            yield "unlearn", (*launcher(self.engine), *self._unlearn(run), *joined(self.forget_options))
        for name in SPLITS:
            asked = (f"--eval_file={self.data}/all_{name}.json", model, f"--loss_type={run.method}", seed, *adapter)
            answers = f"--output_file={{run}}/predictions_{name}.json"
            yield f"infer_{name}", ("python", "ckpt_infer.py", *asked, answers, *joined(self.infer_options))
        for name in SPLITS:
            files = f"--input_file={{run}}/predictions_{name}.json", f"--file_refer={self.data}/all_{name}.json"
            score, more = ("python", "eval_all.py", *files), joined(self.score_options)
            outputs = (f"--output_file_rr={{run}}/verdicts_{name}.json", f"--summary={{run}}/summary_{name}.json")
            yield f"score_{name}", (*score, f"--judge={self.judge}", *outputs, *more)
            if beside := self.beside:
                summary = f"--summary={{run}}/{beside}/summary_{name}.json"
                yield f"agree_{name}", (*score, f"--judge={beside}", "--agree={run}", summary, *more)
        for name in (name for name in self.measures if name in self.steps):
            yield name, (*self.measure(name), *adapter)
        if "audit" in self.steps and adapter:
            judge = f"--judge={self.judge}"
            yield "audit", ("python", "audit.py", *adapter, model, seed, judge, *joined(self.audit_options))

    def _unlearn(self, run: Run) -> Words:
        return (
            *("forget.py", f"--config-name={self.page}", f"model_family={self.model_family}"),
            *(f"model_path={self.model_path}", f"data_path={self.data}/all_train.json"),
            *(f"probe.data_path={self.data}/all_val.json", f"forget_loss={run.method}", f"seed={run.seed}"),
            *("save_dir={run}", "resume_from_checkpoint=auto"),
        )

    @property
    def measures(self) -> dict[str, str]:
        """Commands that the config file names, each of which measures a run in its own way."""
        return {"specificity": self.specificity, **self.checks}

    def measure(self, name: str) -> Words:
        """Such a command, which is told the adapter last."""
        more = joined(self.specificity_options) if name == "specificity" else ()
        return (*self.fill(self.measures[name]), *more)

    def builder(self) -> Words:
        """The command that makes the data; none where they are given."""
        return (*self.fill(self.build), *joined(self.build_options)) if self.build else ()

    def report(self, out: str) -> Words:
        """The command that makes the report of all that is scored."""
        return ("python", "-m", "safeeraser.report", out, f"--note={self.note}", *["--published"] * self.published)

    def fill(self, command: str) -> Words:
        """A command of the config file. `str.format` would stumble over the JSON that an option may hold."""
        words = shlex.split(command)
        return tuple(w.replace("{data}", self.data).replace("{model_path}", self.model_path) for w in words)


def read_plan(given: dict[str, Any], name: str) -> Plan:
    """A plan of these keys. Raises `BadInput` naming the file that they come from, and the key."""
    try:
        plan = Plan.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise BadInput(f"{name}: {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
    if taken := plan.checks.keys() & {"build", "unlearn", "forget", "infer", "score", *OPTIONAL}:
        raise BadInput(f"{name}: checks: '{min(taken)}' is a step that there is already")
    for step in plan.steps:
        if step not in (known := (*OPTIONAL, *plan.checks)):
            raise BadInput(f"{name}: steps: no '{step}'; {nearest(step, known)}")
    assert plan.runs, "what methods and seeds cannot be meant is refused now"
    return plan


def launcher(engine: str | None) -> Words:
    """What starts training and inference."""
    return ("python", "-m", "accelerate.commands.launch", f"--config_file={engine}") if engine else ("python",)


def hashes(data: str) -> dict[str, str]:
    """Of the data files that are there: what was finished on other data is not taken over."""
    return {name: sha256(file) for name in FILES if (file := Path(data, name)).is_file()}


def split(text: str) -> list[str]:
    """Words, with spaces or commas between, each once."""
    return list(dict.fromkeys(text.replace(",", " ").split()))


def joined(text: str) -> Words:
    """Options as one word each, `--name=value`, so that a difference can be named by it."""
    found: list[str] = []
    for word in shlex.split(text):
        if found and found[-1].startswith("--") and "=" not in found[-1] and not word.startswith("-"):
            found[-1] += f"={word}"
        else:
            found.append(word)
    return tuple(found)
