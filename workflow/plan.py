"""The plan of a reproduction: a config file of workflow/config/ with the user's choices, for Snakefile and door.py.

A command runs in the checkout, and `$RUN` is the folder of a run's results. In a config file, a command is a program
with its words. Each word is quoted for the shell, so pipes and variables have no effect there.
"""

import shlex
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, Field

from safeeraser.benchmark.check import FILES
from safeeraser.benchmark.files import hash_settings, sha256
from safeeraser.benchmark.methods import PD, pages, to_decouple
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.benchmark.pages import Keys, checked, read_keys
from safeeraser.errors import BadInput, nearest
from safeeraser.unlearn.config.compose import from_keys

ROOT = Path(__file__).resolve().parents[1]
VANILLA = "vanilla"  # the untouched model: a run without unlearning
METHODS = (VANILLA, "ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd")
SEED = 233  # the release's; a run with another one has it in its name
OPTIONAL = ("specificity", "audit")
PASSED, LACKING = (0, 3), 3  # exit codes after which the next step starts; the one that says something is missing
# Options that change no result: if only their values change, a step that has ended is not run again.
FREE = {"--batch_size", "--workers", "--concurrency", "--requests_per_minute", "--decode", "--price", "--batch"}
FREE |= {"--store"}
# A word with characters that a shell would interpret, such as `recipe.weights.x={at_most:1,rate:2}`, is quoted.
Words = Annotated[str, AfterValidator(lambda line: shlex.join(shlex.split(line)))]


class Run(NamedTuple):
    """A method with a seed."""

    name: str
    method: str
    seed: int


class Plan(Keys):
    """A config file with the user's choices; workflow/config/mini.yaml explains each key."""

    model_family: str
    model_path: str
    data: str
    build: Words | None
    page: str
    engine: str | None
    judge: str
    beside: str | None
    methods: str | None = None
    seeds: str = str(SEED)
    steps: tuple[str, ...]
    specificity: Words
    specificity_check: str | None
    checks: dict[str, Words] = Field({})
    build_options: Words = ""
    forget_options: Words
    infer_options: Words
    score_options: Words
    specificity_options: Words = ""
    audit_options: Words
    measured_forget: str
    measured_infer: str
    jobs: int | None
    environment: dict[str, str]
    note: str
    published: bool = False
    checkpoints: bool = False  # whether a training's checkpoints stay after its end
    out: str = ""  # the folder of the results, relative to the checkout; empty: Snakemake's folder
    gpu: int = 0  # GPUs of a step that runs a model

    @cached_property
    def runs(self) -> dict[str, Run]:
        """The runs by name: for each seed, all methods in their order. Raises `BadInput` for wrong methods or seeds."""
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

    def steps_of(self, run: Run) -> list[str]:
        """The steps of a run, by the names of their marks."""
        unlearn = [] if run.method == VANILLA else ["unlearn"]
        kinds = ["infer", "score", *(["agree"] if self.beside else [])]
        measures = [name for name in self.measures if name in self.steps]
        audit = ["audit"] if unlearn and "audit" in self.steps else []
        return [*unlearn, *(f"{kind}_{split}" for kind in kinds for split in SPLITS), *measures, *audit]

    def mark(self, run: Run, step: str, ending: str = "done") -> Path:
        """The file that records that a step has ended."""
        return Path(self.out, "steps", run.name, f"{step}.{ending}")

    def left(self, step: str) -> list[Run]:
        """The runs that include this step and in which it has not ended yet."""
        return [run for run in self.runs.values() if step in self.steps_of(run) and not self.mark(run, step).is_file()]

    @property
    def processes(self) -> int:
        """The number of processes that the engine starts."""
        return int(read_keys(Path(self.engine)).get("num_processes") or 1) if self.engine else 1

    @property
    def launcher(self) -> str:
        """The program that starts training and inference."""
        engine = shlex.quote(str(self.engine))
        return f"python -m accelerate.commands.launch --config_file={engine}" if self.engine else "python"

    @property
    def measures(self) -> dict[str, str]:
        """The commands of further measures of a run: specificity, and the config file's `checks`."""
        commands = {"specificity": f"{self.specificity} {self.specificity_options}", **self.checks}
        return {name: self.fill(command) for name, command in commands.items()}

    def unlearn(self, method: str, seed: int) -> str:
        """The command line of forget.py, without its launcher."""
        data, model = shlex.quote(self.data), shlex.quote(self.model_path)
        asked = f"forget.py --config-name={self.page} model_family={self.model_family} model_path={model}"
        files = f"data_path={data}/all_train.json probe.data_path={data}/all_val.json"
        return f"{asked} {files} forget_loss={method} seed={seed} {self.forget_options}"

    def settings(self, method: str) -> str:
        """A hash of the settings that the config files give for a method: its terms, its steps, all other keys.

        Raises:
            BadInput: the `name` in the method's file, which labels the results, is not the file's name.
        """
        config = from_keys({"forget_loss": method}, self.page)
        file = method.removesuffix(PD)
        if (name := config.forget_loss.name) != file:
            raise BadInput(f"config/forget_loss/{file}.yaml: its name is '{name}'; write 'name: {file}' there")
        keys: Any
        try:
            keys = OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException:  # a key is missing, such as a rate, that the user's options give
            keys = OmegaConf.to_container(config)
        ours = {key: value for key, value in keys.items() if key != "tables"}  # `tables` has other methods' rows
        return hash_settings(ours)

    def infer(self, method: str, seed: int, split: str) -> str:
        """The command line of ckpt_infer.py, without the adapter, the output file and the user's options."""
        data, model = shlex.quote(self.data), shlex.quote(self.model_path)
        asked = f"ckpt_infer.py --eval_file={data}/all_{split}.json --model_path={model}"
        return f"{asked} --loss_type={method} --seed={seed}"

    def fill(self, command: str) -> str:
        """A command of the config file with its fields filled in. `str.format` would fail at JSON in an option."""
        words = (word.replace("{data}", self.data) for word in shlex.split(command))
        words = (word.replace("{model_path}", self.model_path) for word in words)
        return " ".join('"$RUN"'.join(part and shlex.quote(part) for part in word.split("{run}")) for word in words)


def read_plan(given: dict[str, Any], name: str) -> Plan:
    """The plan with the given keys. Raises `BadInput` with the wrong key and with `name`, the file of the keys."""
    plan: Plan = checked(Plan, given, name)
    if taken := plan.checks.keys() & {"build", "check", "unlearn", "infer", "score", "agree", *OPTIONAL}:
        raise BadInput(f"{name}: checks: '{min(taken)}' is a step that there is already")
    for step in plan.steps:
        if step not in (known := (*OPTIONAL, *plan.checks)):
            raise BadInput(f"{name}: steps: no '{step}'; {nearest(step, known)}")
    assert plan.runs, "methods and seeds are checked now"
    return plan


def deciding(options: str) -> list[str]:
    """The words of options, without the options that change no result."""
    kept, free = list[str](), False
    for word in shlex.split(options):
        free = word.partition("=")[0] in FREE if word.startswith("--") else free
        kept += [] if free else [word]
    return kept


def hashes(data: str) -> dict[str, str]:
    """The SHA-256 of each data file that exists."""
    return {name: sha256(file) for name in FILES if (file := Path(ROOT, data, name)).is_file()}


def split(text: str) -> list[str]:
    """The words of a text, separated by spaces or commas, each once."""
    return list(dict.fromkeys(text.replace(",", " ").split()))
