"""Audits made up by hand, of round figures, so that what the report derives from them can be checked by eye.

`made_up/` holds them: `audit.json` as an earlier version wrote it, which named no format, and `controlled.json`, of
today's form. The untouched model's ASR is 0.8: half is 0.4. In the first decoupled data pass it at step 4, and forget
data at step 2; in the second ASR comes back on decoupled data at step 2, and figstep breaks who never knew as well.
"""

import json
from pathlib import Path

from .made_up_runs import metric

FOLDER = Path(__file__).parent / "made_up"


def audit(**more) -> dict:
    return {**json.loads((FOLDER / "audit.json").read_text()), **more}


def controlled(**more) -> dict:
    return {**json.loads((FOLDER / "controlled.json").read_text()), **more}


def spread(value) -> dict:
    """A metric of a number, its interval 0.1 wide to each side, or whatever is given in its place."""
    if isinstance(value, dict):
        return value
    return metric(value, max(0, round(value - 0.1, 6)), min(1, round(value + 0.1, 6)), judge="rules")


def point(group, name="", at=None, **values) -> dict:
    return {"group": group, "name": name, "at": at, "metrics": {key: spread(value) for key, value in values.items()}}


def without(value: dict, *groups: str) -> dict:
    """The audit as if these groups had not been measured."""
    return {**value, "points": [point for point in value["points"] if point["group"] not in groups]}
