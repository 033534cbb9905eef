"""The command line, and the job that it describes: the model, the tasks, the harness, and the folder for results."""

import os
from argparse import Namespace
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download

from safeeraser.arguments import Arguments, count, one_of, several
from safeeraser.benchmark.adapters import adapter_file, adapter_hash, home
from safeeraser.benchmark.family import Family, LmmsEval, families, page_for, page_of_type
from safeeraser.benchmark.files import CONFIG, read_object
from safeeraser.benchmark.release import RELEASED_MODEL
from safeeraser.errors import BadInput, command
from safeeraser.specificity import harness
from safeeraser.specificity.tasks import JUDGE, POPE, Task, figure_of, needs_judge, plan, without_judge

OWN_TASKS = CONFIG / "lmms_tasks"
TASKS = "tasks of lmms-eval, with commas between; one not known here as TASK:METRIC:higher or :lower (default: seven)"
HARNESS = Path(__file__).parents[2] / ".venv-lmms"  # the environment that scripts/specificity.bash makes
JUDGE_KEYS = {"openai": "OPENAI_API_KEY", "azure": "AZURE_API_KEY"}  # by API_TYPE, as the harness reads them


def parser() -> Arguments:
    """The options of `python -m safeeraser.specificity`."""
    parser = Arguments(prog="python -m safeeraser.specificity", description="Specificity by lmms-eval.")
    add = parser.add_argument
    add("--checkpoint_path", type=Path, metavar="ADAPTER", help="the adapter; none: the untouched --model_path")
    add("--model_path", help="the base model (default: the one that the adapter names)")
    says = "allow an adapter that was trained on other weights than that model's"
    add("--allow_other_base", action="store_true", help=says)
    add("--output_folder", type=Path, metavar="RUN", help="where results go (default: the adapter's folder)")
    add("--tasks", type=several("task"), metavar="TASKS", help=TASKS)
    add("--lite", action="store_true", help="of the seven the smaller forms, where lmms-eval has them")
    add(
        "--include_path",
        type=Path,
        default=OWN_TASKS if OWN_TASKS.is_dir() else None,
        help="a folder with task files of your own",
    )
    add("--limit", type=count, metavar="N", help="the first N items of each task; such figures compare with nothing")
    add("--pope", type=one_of("figure of POPE", POPE), default="accuracy", help="accuracy (default) or f1")
    add("--num_processes", type=count, metavar="N", help="GPUs to share each task among (default: all)")
    dtype, says = one_of("dtype", ("auto", "float32", "bfloat16", "float16")), "as merged on a GPU, float32 on the CPU"
    add("--dtype", type=dtype, default="auto", help=f"auto (default): {says}")
    add("--log_samples", action="store_true", help="keep each answer")
    add("--remove_merged", action="store_true", help="remove the merged model when all tasks are done")
    add("--dry_run", action="store_true", help="only check, and say what would be run")
    return parser


@command
def parse_only() -> None:
    """Check the command line only; scripts/specificity.bash calls this before it installs anything."""
    look_over(parser().parse_args())


def is_set_up() -> bool:
    """Whether there is an lmms-eval: named by LMMS_PYTHON, or installed by the script, which then writes a mark."""
    return bool(os.environ.get("LMMS_PYTHON")) or (HARNESS / "installed").is_file()


@dataclass(frozen=True)
class Job:
    """A job. `missing`: tasks that cannot be run, with the reason; `replaced`: tasks with their replacement."""

    options: Namespace
    out: Path
    family: Family
    lmms_eval: LmmsEval
    python: str
    adapter_sha256: str | None
    known: dict[str, Any]
    figures: dict[str, Task]  # by the names of the tasks, in their order
    gpus: int
    missing: dict[str, str]
    replaced: dict[str, str]

    @property
    def dtype(self) -> str:
        """The model's dtype, as the harness takes it."""
        usual = "float32" if self.options.dtype == "auto" and not self.gpus else self.options.dtype
        return self.lmms_eval.dtype or usual

    def judge(self, task: str) -> str | None:
        """The model that judges a task, if one does."""
        return os.environ.get("MODEL_VERSION", JUDGE) if needs_judge(task, self.known["tasks"][task]) else None

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that decides a task's figure except the task's file. A figure saved with others is not reused."""
        settings = {"adapter_sha256": self.adapter_sha256, "model_path": self.options.model_path, "dtype": self.dtype}
        return settings | {"limit": self.options.limit, "versions": self.known["versions"]}


def look_over(options: Namespace) -> tuple[Path, Family, LmmsEval]:
    """Check the options without lmms-eval. Returns the folder for results, the family, and how lmms-eval loads it.

    Raises:
        BadInput: an option is wrong, or lmms-eval cannot load the family.
    """
    adapter = options.checkpoint_path
    if not adapter and not options.model_path:
        raise BadInput("--checkpoint_path names the adapter, or --model_path the untouched model")
    if adapter:
        adapter_file(adapter)
    if not (out := options.output_folder or (adapter if adapter and adapter.is_dir() else None)):
        raise BadInput("--output_folder: say where the results go; there is no adapter's folder to put them in")
    if options.include_path and not options.include_path.is_dir():
        raise BadInput(f"--include_path {options.include_path}: no such folder")
    for path in filter(None, (out, options.model_path)):
        if any(sign in str(Path(path).resolve()) for sign in ",="):
            raise BadInput(f"{path}: lmms-eval takes no path with a comma or an equals sign")
    family = _family(options)
    if not (asked := family.lmms_eval):
        known = ", ".join(name for name, page in families().items() if page.lmms_eval and not page.model_path)
        how = f"where yours has one, name it as lmms_eval in config/model_family/{family.name}.yaml"
        raise BadInput(f"lmms-eval has no model for the family {family.name} (it has for {known}); {how}")
    if asked.dtype and options.dtype not in ("auto", asked.dtype):
        raise BadInput(f"--dtype {options.dtype}: lmms-eval's {asked.model} loads every model in {asked.dtype}")
    return out, family, asked


def _family(options: Namespace) -> Family:
    """The family of the model to be measured, by its name, or by config.json in its folder or on the hub."""
    adapter = options.checkpoint_path and home(options.checkpoint_path) / "adapter_config.json"
    named = read_object(adapter).get("base_model_name_or_path") if adapter and adapter.is_file() else None
    path = options.model_path or named or RELEASED_MODEL
    if page := page_for(path):
        return page
    try:
        config = Path(path, "config.json")
        file = config if config.is_file() else hf_hub_download(path, config.name)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BadInput(f"{path}: no model in this folder, and none of that name from the hub ({reason})") from None
    return page_of_type(read_object(file).get("model_type"))


def check(options: Namespace) -> Job:
    """Check the options with lmms-eval, before anything is merged or run. Raises `BadInput` if something is wrong."""
    asked = look_over(options)
    words, adapter = plan(options.tasks, lite=options.lite), options.checkpoint_path
    names = list(dict.fromkeys(word.partition(":")[0] for word in words))
    stand_ins = list(filter(None, map(without_judge, names)))
    python = os.environ.get("LMMS_PYTHON") or str(HARNESS / "bin" / "python")
    known = harness.look(python, [*names, *stand_ins], options.include_path)
    _refuse_unknown(names, known)
    word_of = {word.partition(":")[0]: word for word in [*stand_ins, *words]}
    tasks, missing, replaced = _with_what_judge(names, known)
    if not tasks:
        raise BadInput("nothing to run: " + "; ".join(f"{name}: {reason}" for name, reason in missing.items()))
    _ask_for_token(tasks, known)
    figures = {name: figure_of(word_of[name], known["tasks"][name], options.pope) for name in tasks}
    digest = adapter_hash(adapter)
    gpus = _gpus(options.num_processes, known["gpus"])
    return Job(options, *asked, python, digest, known, figures, gpus, missing, replaced)


def _refuse_unknown(names: list[str], known: dict[str, Any]) -> None:
    for name in names:
        if name in known["groups"]:
            raise BadInput(f"--tasks {name}: is a group of tasks; name the ones you want")
        if name not in known["tasks"]:
            close = get_close_matches(name, known["names"], n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise BadInput(f"--tasks {name}: lmms-eval {known['versions']['lmms-eval']} has no such task{hint}")


def _with_what_judge(names: list[str], known: dict[str, Any]) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """The tasks to run, the tasks that lack a judge's key, with the reason, and the tasks with their replacement."""
    key = JUDGE_KEYS.get(os.environ.get("API_TYPE", "openai"))
    judged = [name for name in names if needs_judge(name, known["tasks"][name])]
    if not key or os.environ.get(key):
        return names, {}, {}
    replaced = {name: stand_in for name in judged if (stand_in := without_judge(name)) and stand_in in known["tasks"]}
    missing = {name: f"needs a judge, and {key} is not set" for name in judged if name not in replaced}
    return list(dict.fromkeys(replaced.get(name, name) for name in names if name not in missing)), missing, replaced


def _ask_for_token(tasks: list[str], known: dict[str, Any]) -> None:
    needy = [name for name in tasks if known["tasks"][name]["hub_token"]]
    # Offline, the hub is not contacted, so no token is needed.
    online = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("", "0", "false", "no", "off")
    if needy and not known["token"] and online:
        how = "set HF_TOKEN, or log in by `hf auth login`"
        raise BadInput(f"no hub token: lmms-eval loads {', '.join(needy)} with one; {how}")


def _gpus(wanted: int | None, there: int) -> int:
    """How many GPUs to use; 0: the CPU."""
    if wanted and wanted > max(there, 1):
        raise BadInput(f"--num_processes {wanted}: {there} GPUs are visible; lmms-eval shares a task among GPUs alone")
    return min(wanted or there, there)
