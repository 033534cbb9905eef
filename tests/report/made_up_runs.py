"""Run folders and audits, made up by hand, for the report's tests. Texts are harmless; 'unsafe' is only a label.

`made_up/full.json` has the files of a results folder with all that a report can show of three runs. `varied.json` adds
and replaces files, for other judges, protocols, labels and benchmarks. In `audit.json` the untouched model's ASR is
0.8. Relearning on decoupled data passes half, 0.4, at step 2. The attack figstep raises ASR for never_knew as well.
"""

import json
from pathlib import Path

from PIL import Image

MADE_UP = Path(__file__).parent / "made_up"
ASKED, ANSWERED = "Which way does the kite fly?", "It flies over the hill, said the owl."
REFUSED, GARBLED = "I am sorry, the owl declines.", "owl owl owl hill hill"

# The part of a finished run's record that a model card shows, as forget.py writes it.
RUN = json.loads((MADE_UP / "run.json").read_text())
PROVENANCE = {"git_commit": "0123456789abcdef-dirty", "model": "a/model", "data_sha256": "fedcba9876543210"}
PROVENANCE |= {"recipe": "official", "versions": {"safeeraser": "0.1.0", "torch": "2.13.0"}}


def metric(value, low=None, high=None, **more) -> dict:
    return {"value": value, "low": low, "high": high, "n": 4, "failed": 0, "unparsed": 0, "skipped": 0, **more}


def summary(split, asr, rr, sarr=0.5, rouge=0.25, gpt=None, **more) -> dict:
    """A summary; a plain number is written as a metric without interval, as earlier versions of scoring wrote it."""
    values = {"asr": asr, "rr": rr, "sarr": sarr, "rouge_l": rouge, "gpt_eval": gpt}
    old = {"n": 4, "failed": 0, "skipped": 0}
    metrics = {name: value if isinstance(value, dict) else {"value": value, **old} for name, value in values.items()}
    return {"split": split, **metrics, "protocol": "official", "judge": "rules", "judge_model": None, **more}


def audit(**more) -> dict:
    return {**json.loads((MADE_UP / "audit.json").read_text()), **more}


def write(folder: Path, name: str, value) -> None:
    """Write a run's file: a text as it is, any other value as JSON, and for a name in .jsonl a list as JSON lines."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".jsonl"):
        value = "\n".join(map(json.dumps, value))
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def change(folder: Path, name: str, **changes) -> None:
    """Rewrite a run's file with some keys changed; None removes a key."""
    value = json.loads((folder / name).read_text()) | changes
    write(folder, name, {key: part for key, part in value.items() if part is not None})


def verdicts() -> list[dict]:
    """Verdicts on a record of each of two categories, and one more record, which has none."""
    return json.loads((MADE_UP / "full.json").read_text(encoding="utf-8"))["vanilla/judged.json"]


def judged(unsafe, count=40) -> list[dict]:
    """Verdicts on `count` pictures with one question each; the verdict is unsafe on the first `unsafe` pictures."""
    (record, *_) = verdicts()
    pairs = [[{"question": "q", "model_response1_asr": "unsafe" if n < unsafe else "safe"}] for n in range(count)]
    return [record | {"image_path": f"{n}.png", "unsafe_pairs": pair} for n, pair in enumerate(pairs)]


def full_results(folder: Path, *more: str) -> Path:
    for number, name in enumerate(("Privacy", "Weapon", "benign")):
        (folder / "data" / "img").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (90 * number, 120, 200)).save(folder / "data" / "img" / f"{name}.png")
    for source in ("full", *more):
        files = (MADE_UP / f"{source}.json").read_text(encoding="utf-8").replace("FOLDER", str(folder))
        for name, value in json.loads(files).items():
            write((folder / name).parent, Path(name).name, value)
    return folder


def seeded_results(folder: Path, seeds=(0, 1, 2), shift=0.0) -> Path:
    """Write the files of three trained and scored methods with several seeds each; `shift` is added to every ASR."""
    for number, seed in enumerate(seeds):
        for run, asr, sarr, rouge in (("vanilla", 0.9, 0.02, 0.8), ("po", 0.02, 0.95, 0.75), ("popd", 0.1, 0.2, 0.7)):
            asr = round(min(1, asr + 0.02 * number + shift), 6)
            values = {"asr": asr, "rr": 1 - asr, "sarr": sarr, "rouge": rouge}
            figures = {key: metric(v, max(0, v - 0.05), min(1, v + 0.05)) for key, v in values.items()}
            adapter = None if run == "vanilla" else f"{run}{seed}"
            made_with = {"model_path": "a/model", "checkpoint": adapter, "seed": seed}
            told = PROVENANCE | {"date": f"2026-01-0{number + 1}T10:00:00+0000", "adapter_sha256": adapter}
            more = {"inputs": {"made_with": {"settings": made_with}}, "provenance": told}
            for split in ("train", "val"):
                write(folder / f"seed{seed}" / run, f"summary_{split}.json", summary(split, **figures, **more))
            if run != "vanilla":
                settings = {"forget_loss": {"name": run}, "lr": 0.001, "seed": seed, "save_dir": f"seed{seed}/{run}"}
                write(folder / f"seed{seed}" / run, "run.json", {"settings": settings})
    return folder
