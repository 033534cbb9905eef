"""An audit made up by hand, of round figures, so that what the report derives from it can be checked by eye."""

from .made_up_runs import metric


def point(group, name="", at=None, refusals=None, **values) -> dict:
    """A point of an audit, its metrics with intervals 0.1 wide to each side."""
    return {
        "group": group,
        "name": name,
        "at": at,
        "metrics": {key: spread(value) for key, value in values.items()},
        **({"refusals": {view: spread(value) for view, value in refusals.items()}} if refusals else {}),
    }


def spread(value) -> dict:
    """A metric of a number, or whatever is given in its place."""
    if isinstance(value, dict):
        return value
    return metric(value, max(0, round(value - 0.1, 6)), min(1, round(value + 0.1, 6)), judge="rules")


def audit(**more) -> dict:
    """The untouched model's ASR is 0.8: half is 0.4, which decoupled data pass at step 4, and forget data at step 2."""
    refusals = {"forget": 0.9, "decoupled": 0.9, "image_free": 0.6, "retain": 0.2, "retain_benign": 0.0}
    points = [
        point("clean", "clean", refusals=refusals, asr=0.1, rr=0.9, sarr=0.3, rouge_l=0.75),
        point("attack", "blur", asr=0.2, rr=0.8, sarr=0.25),
        point("attack", "figstep", asr=0.4, rr=0.5),
        point("attack_vanilla", "blur", asr=0.7),
        point("attack_vanilla", "figstep", asr=0.6),
        *(point("quantization", name, asr=asr, rr=0.9) for name, asr in (("int8", 0.1), ("int4", 0.15), ("nf4", 0.12))),
        *(point("scaling", "", at, asr=asr, sarr=0.3, rouge_l=0.75) for at, asr in ((1, 0.1), (0, 0.8), (0.5, 0.5))),
        *(point("relearn_retain", "", at, asr=0.1, sarr=0.3) for at in (0, 2, 4)),
        *(point("relearn_decoupled", "", at, asr=asr, sarr=0.2) for at, asr in ((0, 0.1), (2, 0.4), (4, 0.45))),
        *(point("relearn_forget", "", at, asr=asr, sarr=0.2) for at, asr in ((0, 0.1), (2, 0.6), (4, 0.7))),
    ]
    return {
        "checkpoint": "adapter",
        "checkpoint_sha256": "0123456789abcdef",
        "model_path": "a/model",
        "method": "popd",
        "settings": {"limit": 5, "skip": 1, "seed": 233, "judge": "rules", "protocol": "official", "steps": [0, 2, 4]},
        "points": points,
        "missing": ["attack typography: 3 responses are missing"],
        **more,
    }


def without(value: dict, *groups: str) -> dict:
    """The audit as if these groups had not been measured."""
    return {**value, "points": [point for point in value["points"] if point["group"] not in groups]}
