"""The runs that are to be made, and the commands of each."""

import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safeeraser.arguments import without_credentials
from safeeraser.benchmark.files import CONFIG, PACKAGE
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.errors import BadInput
from safeeraser.reproduce.options import SEED, VANILLA, Options, joined

ROOT = PACKAGE.parent
SCRIPTS = ("forget.py", "ckpt_infer.py", "eval_all.py", "audit.py", "scripts/specificity.bash")


@dataclass(frozen=True)
class Step:
    """A command of a run.

    Attributes:
        words: the command, `{run}` standing for the run's folder, so that results may be moved. By these it is known.
        launcher: what starts it in place of Python, where that decides nothing of what comes out.
        result: what it writes at its end, where its exit code does not tell that something is lacking: a launcher ends
            with 1 whatever its processes said.
        leaf: no other step rests on it.
    """

    name: str
    words: tuple[str, ...]
    launcher: tuple[str, ...] = ("python",)
    result: str | None = None
    leaf: bool = False

    @property
    def told(self) -> list[str]:
        """The command as records carry it."""
        return [str(without_credentials(word)) if "://" in word else word for word in self.words]

    def call(self, run: Path) -> list[str]:
        """The command as it is started."""
        first = self.words[:1] if self.words[0] != "python" else self.launcher
        return called([*first, *self.words[1:]], run=str(run))

    def options(self, run: Path) -> list[str]:
        """What a script of this project is given, behind its name."""
        return called(self.words[2:], run=str(run))


@dataclass(frozen=True)
class Run:
    """A method with a seed: its folder, where its marks stand, and its steps in their order."""

    name: str
    method: str
    seed: int
    folder: Path
    marks: Path
    steps: tuple[Step, ...]


def called(words: tuple[str, ...] | list[str], **places: str) -> list[str]:
    """Words as they are started: this Python, this checkout's scripts, and what stands in braces filled in."""
    named = {"python": sys.executable} | {script: str(ROOT / script) for script in SCRIPTS}
    return [filled(named.get(word, word), config=str(CONFIG), **places) for word in words]


def filled(text: str, **places: str) -> str:
    """`str.format` would stumble over the JSON that an option may hold."""
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def runs_of(options: Options) -> list[Run]:
    """Every run, seed by seed, in the methods' order. Raises `BadInput` outside a checkout, which has the scripts."""
    if not all((ROOT / script).is_file() for script in SCRIPTS):
        raise BadInput(f"{ROOT}: no checkout of SafeEraser, whose scripts this command starts")
    runs = []
    for seed in options.seeds:
        for method in options.methods:
            name = method if seed == SEED else f"{method}-seed{seed}"
            steps = tuple(steps_of(options, method, seed))
            runs.append(Run(name, method, seed, options.out / name, options.marks / name, steps))
    return runs


def steps_of(options: Options, method: str, seed: int) -> Iterator[Step]:
    """The commands of a run, each resting on those before it."""
    settings, adapter = options.settings, () if method == VANILLA else ("--checkpoint_path={run}",)
    if adapter:
        yield Step("unlearn", unlearn(options, method, seed))
    for split in SPLITS:
        words = answer(options, split, method, seed, adapter)
        result = f"predictions_{split}.json" if options.engine else None
        yield Step(f"infer_{split}", words, launcher(options), result)
    for split in SPLITS:
        yield Step(f"score_{split}", judge(options, split))
        if settings.beside:
            yield Step(f"agree_{split}", agree(options, split), leaf=True)
    for name, command in {"specificity": settings.specificity, **settings.checks}.items():
        if name in options.optional:
            yield Step(name, (*check(command, options), *options.more.get(name, ()), *adapter), leaf=True)
    if "audit" in options.optional and adapter:
        yield Step("audit", audit(options, seed), leaf=True)


def unlearn(options: Options, method: str, seed: int) -> tuple[str, ...]:
    """The words of forget.py, and of the engine, which decides how many items a step takes."""
    return (
        *(*launcher(options), "forget.py", f"--config-name={options.settings.page}"),
        *(f"model_family={options.family}", f"model_path={options.model_path}"),
        *(f"data_path={options.data}/all_train.json", f"probe.data_path={options.data}/all_val.json"),
        *(f"forget_loss={method}", f"seed={seed}", "save_dir={run}", "resume_from_checkpoint=auto"),
        *further("forget", options),
    )


def answer(options: Options, split: str, method: str, seed: int, adapter: tuple[str, ...]) -> tuple[str, ...]:
    """The words of ckpt_infer.py."""
    return (
        *("python", "ckpt_infer.py", f"--eval_file={options.data}/all_{split}.json"),
        *(f"--model_path={options.model_path}", f"--loss_type={method}", f"--seed={seed}", *adapter),
        *(f"--output_file={{run}}/predictions_{split}.json", *further("infer", options)),
    )


def judge(options: Options, split: str) -> tuple[str, ...]:
    """The words of eval_all.py."""
    outputs = (f"--output_file_rr={{run}}/verdicts_{split}.json", f"--summary={{run}}/summary_{split}.json")
    return (*scored(options, split), f"--judge={options.judge}", *outputs, *further("score", options))


def agree(options: Options, split: str) -> tuple[str, ...]:
    """How far another judge can be trusted, by what the first one found."""
    other = options.settings.beside
    own = (f"--judge={other}", "--agree={run}", f"--summary={{run}}/{other}/summary_{split}.json")
    return (*scored(options, split), *own, *joined(shlex.split(options.settings.score_options)))


def scored(options: Options, split: str) -> tuple[str, ...]:
    """Which files are scored."""
    files = f"--input_file={{run}}/predictions_{split}.json", f"--file_refer={options.data}/all_{split}.json"
    return ("python", "eval_all.py", *files)


def check(command: str, options: Options) -> tuple[str, ...]:
    """The words of a command that stands in the settings."""
    places = {"data": str(options.data), "model_path": options.model_path}
    return tuple(filled(word, **places) for word in shlex.split(command))


def audit(options: Options, seed: int) -> tuple[str, ...]:
    """The words of audit.py."""
    own = ("--checkpoint_path={run}", f"--model_path={options.model_path}", f"--seed={seed}")
    return ("python", "audit.py", *own, f"--judge={options.judge}", *further("audit", options))


def further(part: str, options: Options) -> tuple[str, ...]:
    """The options of a command that the settings name, then the user's own."""
    return (*joined(shlex.split(getattr(options.settings, f"{part}_options"))), *options.more[part])


def launcher(options: Options) -> tuple[str, ...]:
    """What starts training and inference. Records do not tell where a checkout lies, so its config/ has a name."""
    if not (engine := options.engine):
        return ("python",)
    inside = engine.absolute().is_relative_to(CONFIG)
    file = Path("{config}", engine.absolute().relative_to(CONFIG)) if inside else engine
    return ("python", "-m", "accelerate.commands.launch", f"--config_file={file}")
