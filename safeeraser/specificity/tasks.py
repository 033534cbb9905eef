"""The VQA benchmarks whose mean is Specificity, as lmms-eval 0.7.3 names and scales them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safeeraser.errors import BadInput


@dataclass(frozen=True)
class Task:
    """A task's figure that enters. `scale` is what the harness gives where all is right, or, of a figure that is the
    `lower` the better, where all is wrong.

    `judged`: the harness asks GPT-4o about answers. `lite` and `rules` are the harness's names of its smaller form and
    of the form that does without the judge, where it has them.
    """

    metric: str = "exact_match"
    scale: float = 1
    lower: bool = False
    judged: bool = False
    lite: str | None = None
    rules: str | None = None


# POPE's figures: accuracy counts "no" as much as "yes"; F1, of the answer "yes", is what the LLaVA papers print.
POPE = {"accuracy": "pope_accuracy", "f1": "pope_f1_score"}
WAYS = ("higher", "lower")  # which is better
JUDGE = "gpt-4o-2024-11-20"  # whom the harness asks unless MODEL_VERSION names another
MMBENCH = "mmbench_en_dev"
SEVEN = {
    "gqa": Task(lite="gqa_lite"),
    "vizwiz_vqa_val": Task(lite="vizwiz_vqa_val_lite"),
    "scienceqa_img": Task(),
    "vqav2_val": Task(lite="vqav2_val_lite"),
    "pope": Task(POPE["accuracy"]),
    "mmvet": Task("gpt_eval_score", 100, judged=True),
    MMBENCH: Task("gpt_eval_score", 100, judged=True, lite=f"{MMBENCH}_lite", rules=f"{MMBENCH}_static"),
}
# By whichever of its names a task is asked for; mini_vqa is of config/lmms_tasks. By rules alone MMBench has the same
# figure; its lite form has no such twin, so this one, of all items, stands in for both.
KNOWN = {"mini_vqa": Task(), **SEVEN, **{task.lite: task for task in SEVEN.values() if task.lite}}
KNOWN[f"{MMBENCH}_static"] = Task("gpt_eval_score", 100)


def plan(words: Iterable[str] | None, *, lite: bool) -> list[str]:
    """What is asked for: `words`, each a task of the harness or `TASK:METRIC:WAY`; or the seven, with `lite` in their
    smaller forms."""
    return list(words or ((lite and task.lite) or name for name, task in SEVEN.items()))


def figure_of(word: str, known: Mapping[str, Any], pope: str) -> Task:
    """Which of a task's figures enters, and which way it points: as the table has it, or as the word says.

    Raises:
        BadInput: the table has neither, and the word does not say both: a first figure may be an attack's success rate.
    """
    name, _, said = word.partition(":")
    if not said and name in KNOWN:
        return Task(POPE[pope]) if name == "pope" else KNOWN[name]
    metric, _, way = said.partition(":")
    if metric not in known["metrics"] or way not in WAYS:
        raise BadInput(
            f"--tasks {word}: say which figure counts and which way is better, {name}:METRIC:{'|'.join(WAYS)}; "
            f"lmms-eval's metrics for this task: {', '.join(known['metrics']) or 'none'}"
        )
    return Task(metric, lower=way == "lower")


def needs_judge(name: str, known: Mapping[str, Any]) -> bool:
    """Whether the harness asks a judge. Of a task that is none of the seven its metric's name says it."""
    return KNOWN[name].judged if name in KNOWN else any("gpt" in metric for metric in known["metrics"])


def without_judge(name: str) -> str | None:
    """The form of a task that does without the judge, if it has one."""
    return KNOWN.get(name, Task()).rules
