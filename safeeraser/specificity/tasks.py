"""The VQA benchmarks whose mean is Specificity, as lmms-eval 0.7.3 names and scales them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safeeraser.errors import BadInput


@dataclass(frozen=True)
class Task:
    """A task's figure that enters. `scale` is what the harness gives where all is right, or, of a figure that is the
    `lower` the better, where all is wrong.

    `judged`: the harness asks GPT-4o about answers. `lite` and `without_judge` are the harness's names of its smaller
    form and of the form that does without the judge, where it has them.
    """

    metric: str
    scale: float = 1
    lower: bool = False
    judged: bool = False
    lite: str | None = None
    without_judge: str | None = None


# POPE's figures: accuracy counts "no" as much as "yes"; F1, of the answer "yes", is what the LLaVA papers print.
POPE = {"accuracy": "pope_accuracy", "f1": "pope_f1_score"}

WAYS = ("higher", "lower")  # which is better

# Whom the harness asks unless MODEL_VERSION names another.
JUDGE = "gpt-4o-2024-11-20"

SEVEN = {
    "gqa": Task("exact_match", lite="gqa_lite"),
    "vizwiz_vqa_val": Task("exact_match", lite="vizwiz_vqa_val_lite"),
    "scienceqa_img": Task("exact_match"),
    "vqav2_val": Task("exact_match", lite="vqav2_val_lite"),
    "pope": Task(POPE["accuracy"]),
    "mmvet": Task("gpt_eval_score", scale=100, judged=True),
    "mmbench_en_dev": Task(
        "gpt_eval_score", scale=100, judged=True, lite="mmbench_en_dev_lite", without_judge="mmbench_en_dev_static"
    ),
}

# By whichever of its names a task is asked for.
_BY_NAME = {
    "mini_vqa": Task("exact_match"),  # of config/lmms_tasks
    **SEVEN,
    **{task.lite: task for task in SEVEN.values() if task.lite},
    # The same figure by rules alone; the lite form has no such twin, so this one, of all items, stands in for both.
    **{name: Task("gpt_eval_score", scale=100) for task in SEVEN.values() if (name := task.without_judge)},
}


def plan(words: Iterable[str] | None, *, lite: bool) -> list[str]:
    """What is asked for: `words`, each a task of the harness or `TASK:METRIC:WAY`; or the seven, with `lite` in their
    smaller forms."""
    if words:
        return list(words)
    return [(lite and task.lite) or name for name, task in SEVEN.items()]


def figure_of(word: str, known: Mapping[str, Any], pope: str) -> Task:
    """Which of a task's figures enters, and which way it points: as the table has it, or as the word says.

    Raises:
        BadInput: the table has neither, and the word does not say both: a first figure may be an attack's success rate.
    """
    name, _, said = word.partition(":")
    if not said and name in _BY_NAME:
        return Task(POPE[pope], SEVEN["pope"].scale) if name == "pope" else _BY_NAME[name]
    metric, _, way = said.partition(":")
    if metric not in known["metrics"] or way not in WAYS:
        raise BadInput(
            f"--tasks {word}: say which figure counts and which way is better, {name}:METRIC:{'|'.join(WAYS)}; "
            f"lmms-eval's metrics for this task: {', '.join(known['metrics']) or 'none'}"
        )
    return Task(metric, lower=way == "lower")


def needs_judge(name: str, known: Mapping[str, Any]) -> bool:
    """Whether the harness asks a judge. Of a task that is none of the seven its metric's name tells."""
    if name in _BY_NAME:
        return _BY_NAME[name].judged
    return any("gpt" in metric for metric in known["metrics"])


def without_judge(name: str) -> str | None:
    """The form of a task that does without the judge, if it has one."""
    return _BY_NAME[name].without_judge if name in _BY_NAME else None
