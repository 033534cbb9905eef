"""The VQA benchmarks whose mean is Specificity, as lmms-eval 0.7.3 names and scales them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from safeeraser.errors import BadInput


@dataclass(frozen=True)
class Task:
    """The figure of a task that enters the mean. `lower`: lower values are better. `scale` is the harness's value if
    all answers are right, or, with `lower`, if all are wrong.

    `judged`: the harness has GPT-4o judge the answers. `lite` and `rules` are the harness's names of the task's smaller
    form and of its form without a judge, if it has them.
    """

    metric: str = "exact_match"
    scale: float = 1
    lower: bool = False
    judged: bool = False
    lite: str | None = None
    rules: str | None = None


# POPE's figures: accuracy counts "no" as much as "yes"; the LLaVA papers print the F1 of the answer "yes".
POPE = {"accuracy": "pope_accuracy", "f1": "pope_f1_score"}
WAYS = ("higher", "lower")  # the better direction
JUDGE = "gpt-4o-2024-11-20"  # the harness's judge unless MODEL_VERSION names another
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
# The tasks by all of their names; mini_vqa is defined in config/lmms_tasks. MMBench has the same figure in its form
# without a judge. Its lite form has no form without a judge, so the one of all items replaces both.
KNOWN = {"mini_vqa": Task(), **SEVEN, **{task.lite: task for task in SEVEN.values() if task.lite}}
KNOWN[f"{MMBENCH}_static"] = Task("gpt_eval_score", 100)


def plan(words: Iterable[str] | None, *, lite: bool) -> list[str]:
    """The tasks to run: `words`, each a task of the harness or `TASK:METRIC:WAY`; without words the seven, with `lite`
    in their smaller forms."""
    return list(words or ((lite and task.lite) or name for name, task in SEVEN.items()))


def figure_of(word: str, known: Mapping[str, Any], pope: str) -> Task:
    """The figure of a task that enters the mean, and its better direction: from the word, or else from `KNOWN`.

    Raises:
        BadInput: neither gives both. The first figure is no default: it may be an attack's success rate.
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
    """Whether the harness asks a judge: as `KNOWN` says, or else if the name of one of the task's metrics has "gpt"."""
    return KNOWN[name].judged if name in KNOWN else any("gpt" in metric for metric in known["metrics"])


def without_judge(name: str) -> str | None:
    """The form of a task without a judge, if it has one."""
    return KNOWN.get(name, Task()).rules
