"""Settings from the words of a command line, on the recorded data."""

from functools import cache

import helpers
from omegaconf import OmegaConf

from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.run import forget

GIVEN = (f"model_path={helpers.MODEL}", f"data_path={helpers.TRAIN}", "dtype=float32", "LoRA.dropout=0", "workers=0")
GROUPS = ("forget_loss=", "recipe=", "step=", "data=", "model_family=", "+", "~")


@cache
def page(*choices, given=GIVEN):
    """The config composed with `choices`; keys can be merged into it. It is cached, because composing is slow."""
    composed = helpers.config(*given, *choices)
    OmegaConf.set_struct(composed, False)
    return composed


def settings(*words):
    """The checked settings of a command line."""
    choices = [word for word in words if word.startswith(GROUPS)]
    keys = [word for word in words if not word.startswith(GROUPS)]
    return read_settings(OmegaConf.merge(page(*choices), OmegaConf.from_dotlist(keys)))


def refuses(folder, *words):
    """The one-line error of a run that must be refused, with nothing in the folder touched."""
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    said = helpers.refusal(lambda: forget(settings(f"save_dir={folder / 'run'}", *words)))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before and "\n" not in said
    return said
