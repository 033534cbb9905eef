"""The VQA benchmarks whose mean is Specificity, as lmms-eval 0.7.3 names and scales them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """One of the seven. `scale` is what the harness gives where all is right.

    `judged`: the harness asks GPT-4o about answers. `lite` and `without_judge` are the harness's names of its smaller
    form and of the form that does without the judge, where it has them.
    """

    metric: str
    scale: float = 1
    judged: bool = False
    lite: str | None = None
    without_judge: str | None = None


# POPE's figures: accuracy counts "no" as much as "yes"; F1, of the answer "yes", is what the LLaVA papers print.
POPE = {"accuracy": "pope_accuracy", "f1": "pope_f1_score"}

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
    **SEVEN,
    **{task.lite: task for task in SEVEN.values() if task.lite},
    # The same figure by rules alone; the lite form has no such twin, so this one, of all items, stands in for both.
    **{name: Task("gpt_eval_score", scale=100) for task in SEVEN.values() if (name := task.without_judge)},
}


def plan(names: Iterable[str] | None, *, lite: bool) -> list[str]:
    """The harness's names of what is asked for: `names`, or the seven; with `lite`, in their smaller forms."""
    if names:
        return list(names)
    return [(lite and task.lite) or name for name, task in SEVEN.items()]


def needs_judge(name: str, known: Mapping[str, Any]) -> bool:
    """Whether the harness asks a judge. Of a task that is none of the seven its metric's name tells."""
    if name in _BY_NAME:
        return _BY_NAME[name].judged
    return any("gpt" in metric for metric in known["metrics"])


def without_judge(name: str) -> str | None:
    """The form of a task that does without the judge, if it has one."""
    return _BY_NAME[name].without_judge if name in _BY_NAME else None


def figure(name: str, known: Mapping[str, Any], pope: str) -> tuple[str, float]:
    """Which of a task's figures enters, and the harness's number for all right.

    Of a task that is none of the seven it is the first one, `submission` (a file for a server, no figure) left aside.
    """
    if name == "pope":
        return POPE[pope], SEVEN["pope"].scale
    if name in _BY_NAME:
        return _BY_NAME[name].metric, _BY_NAME[name].scale
    return next((metric for metric in known["metrics"] if metric != "submission"), ""), 1
