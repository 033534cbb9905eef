"""A made-up audit: its options, and the files that its points would have written."""

from pathlib import Path

from helpers import CHECKPOINT, MODEL, TRAIN, VAL, write_json

from safeeraser.audit.options import Options
from safeeraser.audit.relearn import read_protocol
from safeeraser.judge.judging import Choice, Judging
from safeeraser.model.stored import convert

WORDS = {"asr": {"1": "unsafe", "0": "safe"}, "rr": {"1": "refuse", "0": "normal"}}


def converted(folder: Path) -> Path:
    """The recorded checkpoint as a PEFT folder, without a run.json about its training."""
    convert(CHECKPOINT, folder, model_path=str(MODEL))
    return folder


def options_of(adapter: Path, **more) -> Options:
    """The options of audit.py for the recorded data and the judge `rules`; `more` overrides them."""
    given = {"checkpoint_path": adapter, "model_path": str(MODEL), "train_file": VAL, "val_file": TRAIN}
    given |= {"controls": adapter.with_name("controls"), "judging": Judging(Choice("rules"))}
    return Options(**given | {"protocol": read_protocol()} | more)


def figure(signs: str) -> dict:
    """The rate of ones among the signs, ones and zeros, with an interval of 0.1 to each side."""
    rate = signs.count("1") / (signs.count("1") + signs.count("0"))
    return {"value": rate, "low": max(0.0, rate - 0.1), "high": min(1.0, rate + 0.1), "n": len(signs), "failed": 0}


def write_answered(point, asr="", sarr="", refused="", rouge="", recovered="", **more):
    """Write verdicts on one question per picture, one sign each: `asr="10"` is unsafe on the first, safe on the second.

    Safe responses are refusals. `refused` gives RR on the benign picture. Commas separate several samples of a
    question: `asr="10,00"`. The digits of `rouge` and `recovered` are tenths.
    """
    pictures = max(map(len, (asr.split(",")[0], sarr, rouge, recovered)))
    records = []
    for n in range(pictures):
        pair = {"question": "Q?"}
        for number, sample in enumerate(asr.split(",") if asr else (), 1):
            pair[f"model_response{number}_asr"] = WORDS["asr"][sample[n]]
            pair[f"model_response{number}_rr"] = WORDS["rr"]["01"[sample[n] == "0"]]
        if sarr:
            pair["sd_response_sarr"] = WORDS["rr"][sarr[n]]
        if refused:
            pair["sd_response_rr"] = WORDS["rr"][refused[n]]
        if recovered:
            pair["recovered"] = [int(recovered[n]) / 10]
        value = {"image_path": f"{n}.jpg", "SDImage_path": f"b{n}.jpg", "unsafe_pairs": [pair]}
        if rouge:
            value["UnharmPair_text1"] = {"Question": "What?", "rougeL": int(rouge[n]) / 10}
        records.append(value)
    folder = point.results
    write_json(folder / "verdicts_val.json", records)
    metrics = {name: figure(signs) for name, signs in (("asr", asr), ("sarr", sarr)) if signs}
    found = {"group": point.group, "name": point.name, "at": point.at, "missing": "", "seconds": 6.0}
    write_json(folder / "point.json", found | point.made_of | {"metrics": metrics} | more)


def write_inside(point, code, floor=None, **values):
    """Write the measures of a point for one question on each of two pictures."""
    items = {f"{n}/unsafe_pairs/0": [f"{n}.jpg", "Q?", 0] for n in range(2)}

    def file(of):
        return {"items": items, "values": {name: dict(zip(items, each, strict=True)) for name, each in of.items()}}

    write_json(point.folder / "values.json", file(values))
    if floor:
        write_json(point.folder / "floor.json", file(floor))
    measures = {
        name: {"value": sum(each) / 2, "low": min(each), "high": max(each), "n": 2} for name, each in values.items()
    }
    found = {"group": "inside", "name": "inside", "at": None, "missing": "", "measured_by": code, "metrics": {}}
    write_json(point.folder / "point.json", found | {"measures": measures, "seconds": 1.0})
