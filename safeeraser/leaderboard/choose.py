"""Choose each method's learning rate and number of steps on train and dev, with one budget and one rule for all."""

import logging
import shutil
import time
from typing import Any

from safeeraser.benchmark.files import read_object, write_json
from safeeraser.errors import BadInput
from safeeraser.infer.requests import Selection
from safeeraser.leaderboard.answers import BENIGN, FORGET, RETAIN, Subject, answers, share
from safeeraser.leaderboard.plan import PAGE, WORK, Cell, Plan, settings_file
from safeeraser.leaderboard.rule import choose, wider
from safeeraser.leaderboard.train import model_of, unlearn

log = logging.getLogger(__name__)


def choose_settings(plan: Plan, name: str) -> dict[str, Any]:
    """Try a row's method with all settings of the budget, write all trials and the choice, and return the choice.

    Raises:
        BadInput: the row is unknown, is not trained, or takes the settings of another row.
    """
    if name not in plan.chosen:
        plan.row(name)
        raise BadInput(f"{PAGE}: rows.{name}: is not trained, or takes the settings of another row")
    budget, begun = plan.budget, WORK / "settings" / f"{name}.json"
    tried = read_object(begun)["tried"] if begun.is_file() else []
    waiting = [{"lr": lr, "max_train_steps": steps} for steps in budget.max_train_steps for lr in budget.lr]
    while waiting:
        for settings in waiting:
            if not any(settings.items() <= before.items() for before in tried):
                tried.append(settings | attempt(plan, name, settings))
                write_json(begun, {"tried": tried})
        best = choose(tried)
        chosen = {key: best[key] for key in ("lr", "max_train_steps")}
        waiting = [chosen | {"lr": lr} for lr in wider(chosen, tried, budget.lr, budget.wider)]
    write_json(settings_file(name), {"row": name, "chosen": chosen, "tried": tried})
    log.info("%s: %s", name, chosen)
    return chosen


def attempt(plan: Plan, name: str, settings: dict[str, Any]) -> dict[str, float]:
    """Train and ask once; return the figures that the rule uses, and the seconds of training."""
    cell, began = Cell(name, 0, plan.budget.seed), time.monotonic()
    folder = WORK / "settings" / name / "-".join(f"{value:g}" for value in settings.values())
    adapter = unlearn(plan, cell, settings, folder / "adapter")
    seconds = time.monotonic() - began
    subject = Subject(model_of(plan, cell), adapter, folder, cell.seed, plan.data)
    asked = Selection((FORGET, BENIGN, RETAIN), samples=1)
    some = Selection(asked.views, by_keyword=0, limit=plan.budget.records, samples=1)
    of_splits = [answers(subject, "dev", asked), answers(subject, "train", some)]
    figures = {key: share(*(of[key] for of in of_splits)) for key in ("asr", "rr", "sarr", "rouge_l")}
    log.info("%s, %s: %s", name, settings, ", ".join(f"{key} {100 * value:.1f}" for key, value in figures.items()))
    shutil.rmtree(folder)
    return figures | {"seconds": round(seconds)}
