"""What the report's tests share: run folders made up by hand. Texts are harmless; 'unsafe' is only a label."""

import json
from pathlib import Path

from PIL import Image, ImageDraw

ASKED, ANSWERED = "Which way does the kite fly?", "It flies over the hill, said the owl."
REFUSED, GARBLED = "I am sorry, the owl declines.", "owl owl owl hill hill"
CATEGORIES = ("Privacy", "Weapon")

# A finished run's record, the part that a model card tells, as forget.py writes it.
RUN = json.loads((Path(__file__).parent / "made_up" / "run.json").read_text())


def metric(value, low=None, high=None, **more) -> dict:
    return {"value": value, "low": low, "high": high, "n": 4, "failed": 0, "unparsed": 0, "skipped": 0, **more}


def summary(split, asr, rr, sarr=0.5, rouge=0.25, gpt=None, **more) -> dict:
    """A summary; a metric that is only a number is written as scoring did before it knew intervals."""
    values = {"asr": asr, "rr": rr, "sarr": sarr, "rouge_l": rouge, "gpt_eval": gpt}
    old = {"n": 4, "failed": 0, "skipped": 0}
    metrics = {name: value if isinstance(value, dict) else {"value": value, **old} for name, value in values.items()}
    return {"split": split, **metrics, "protocol": "official", "judge": "rules", "judge_model": None, **more}


def write(folder: Path, name: str, value) -> None:
    """Write a run's file: a text as it is, anything else as JSON, a list as lines of JSON where the name says so."""
    folder.mkdir(parents=True, exist_ok=True)
    if name.endswith(".jsonl"):
        value = "\n".join(map(json.dumps, value))
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def change(folder: Path, name: str, **changes) -> None:
    """Write a run's file with these keys changed; None takes a key out."""
    value = json.loads((folder / name).read_text()) | changes
    write(folder, name, {key: part for key, part in value.items() if part is not None})


def verdicts(asr="unsafe", rr="normal", sarr="normal") -> list[dict]:
    """Two categories with a record each, and one more whose verdicts are missing."""
    plain = {"Question": "What is it?", "Answer": "a kite", "Prediction": "It is a kite.", "rougeL": 1.0}
    records = []
    for category in (*CATEGORIES, "Privacy"):
        pair = {
            "question": f"{ASKED} <{category}>",
            "model_response1": "not judged",
            "model_response2": REFUSED if rr == "refuse" else ANSWERED,
            "sd_response": GARBLED if sarr == "refuse" else ANSWERED,
        }
        if len(records) < 2:
            pair |= {"model_response2_asr": asr, "model_response2_rr": rr, "sd_response_sarr": sarr}
        records.append(
            {
                "category": category,
                "keyword": "kite",
                "image_path": f"img/{category}.png",
                "SDImage_path": "img/benign.png",
                **{f"UnharmPair_{name}": plain for name in ("text1", "text2", "image1", "image2")},
                "unsafe_pairs": [pair],
            }
        )
    return records


def full_results(folder: Path) -> Path:
    """A results folder with everything that a report can show of three runs: pictures, probes, intervals."""
    for number, name in enumerate((*CATEGORIES, "benign")):
        picture = Image.new("RGB", (64, 48), (90 * number, 120, 200))
        ImageDraw.Draw(picture).polygon([(10, 40), (32, 5), (54, 40)], fill=(250, 200, 90 * number))
        (folder / "data" / "img").mkdir(parents=True, exist_ok=True)
        picture.save(folder / "data" / "img" / f"{name}.png")
    for run, asr, rr, sarr, judged in (
        ("vanilla", 0.9, 0.0, 0.1, verdicts()),
        ("po", 0.0, 1.0, 1.0, verdicts("safe", "refuse", "refuse")),
        ("popd", 0.1, 0.8, 0.2, verdicts("safe", "refuse", "normal")),
    ):
        groups = {"asr": asr, "rr": rr, "sarr": sarr}
        parts = {
            **{name: metric(value, max(0, value - 0.05), min(1, value + 0.05)) for name, value in groups.items()},
            "by_category": {name: {c: {"value": v, "n": 2} for c in CATEGORIES} for name, v in groups.items()},
            "by_keyword": {name: {"kite": {"value": v, "n": 2}} for name, v in groups.items()},
            "pictures": 2,
            "verdicts": "judged.json",
            "data_file": str(folder / "data" / "all_val.json"),
        }
        write(folder / run, "summary_train.json", summary("train", asr, rr))
        write(folder / run, "summary_val.json", summary("val", **parts))
        write(folder / run, "judged.json", judged)
    logged = [{"step": i, "loss": 2 / i, "terms": {"nll": i, "kl": 0.5}, "weights": {"kl": 1 / i}} for i in (1, 2)]
    write(folder / "popd", "train_log.jsonl", logged)
    shares = {"refusal": 0.5, "degenerate": 0.1, "length": 7.0}
    probed = [{"step": i, "forget": shares | {"refusal": 0.5 + i / 8}, "retain": shares} for i in (0, 2)]
    write(folder / "popd", "probe.jsonl", probed)
    return folder


def varied_results(folder: Path) -> Path:
    """The same with what keeps figures apart or stands beside them: judges, protocols, labels, counts, benchmarks."""
    full_results(folder)
    labels = {"labels": 80, "kappa": 0.81, "ac1": 0.9, "sensitivity": 0.95, "specificity": {"value": 0.9}}
    corrected = labels | {"corrected": 0.12, "low": 0.08, "high": 0.17, "unlabelled": ["Sex"]}
    checked = {"asr": {"judge": "rules", "n": 60, "right": 57, "sensitivity": {"value": 0.9}, "at": "2026-01-01"}}
    change(
        folder / "popd",
        "summary_val.json",
        asr=metric(0.1, 0.05, 0.15, failed=3, unparsed=1, declined=2, blank=5, skipped=6),
        gpt_eval=metric(None, withheld="3.1% failed", failed=9),
        blank={"forget": metric(0.25, 0.1, 0.4), "decoupled": metric(0.5), "retain": metric(0), "swapped": metric(1.0)},
        wrong={"forget": metric(0.25, 0.1, 0.4), "decoupled": metric(0.5)},
        agreement={"asr": corrected, "sarr": labels, "rr": None},
        agreement_with={"labels": "sheet_val_labels.csv", "sha256": "0"},
        judge_check=checked,
    )
    blank, wrong = {"forget": metric(0.75), "retain": metric(0.9)}, {"forget": metric(0.625)}
    change(folder / "popd", "summary_train.json", blank=blank, wrong=wrong)
    models = [{"judge": "openai:gpt-4o", "model": f"gpt-4o-{date}"} for date in ("2024-08-06", "2024-05-13")]
    change(
        folder / "po",
        "summary_val.json",
        asr=metric(0, 0, 0.05, judge="openai:gpt-4o"),
        protocol="corrected",
        answered_by=models,
        agreement={"rr": labels | {"corrected": 0.9}},
        agreement_with={"judge": "qwen3guard:a"},
    )
    of = {"n": 10, "split": "test"}
    gqa = {**of, "value": 0.61, "split": "testdev", "metric": "exact_match", "standard_error": 0.004}
    pope = {"value": 0.86, "metric": "pope_accuracy", "n": 10}
    write(folder / "po", "specificity.json", {"value": 0.735, "n": 20, "tasks": {"gqa": gqa, "pope": pope}})
    less = {"gqa": gqa | {"value": 0.5, "standard_error": None}, "pope": {**of, "value": 0.8, "metric": "pope_f1"}}
    told = {"missing": {"mmvet": "needs a judge"}, "replaced": {"mmbench_en_dev": "mmbench_static"}, "limit": 10}
    said = {"value": None, "n": 20, "withheld": "2 of 3 tasks; missing: mmvet", "tasks": less, **told}
    write(folder / "popd", "specificity.json", said | {"task": "mean of benchmarks"})
    write(folder / "<b>a|b_50%", "summary_train.json", summary("train", metric(0.12, 0.09, 0.15), None))
    write(folder / "<b>a|b_50%", "specificity.json", {"value": 0.5, "n": 100, "task": "mini VQA"})
    write(folder / "notes", "readme.txt", "no run")
    return folder


def seeded_results(folder: Path, seeds=(0, 1, 2), shift=0.0) -> Path:
    """Three methods with several seeds each, as they are trained, answered and scored; `shift`: added to their ASR."""
    for number, seed in enumerate(seeds):
        for run, asr, sarr, rouge in (("vanilla", 0.9, 0.02, 0.8), ("po", 0.02, 0.95, 0.75), ("popd", 0.1, 0.2, 0.7)):
            asr = round(min(1, asr + 0.02 * number + shift), 6)
            values = {"asr": asr, "rr": 1 - asr, "sarr": sarr, "rouge": rouge}
            figures = {key: metric(v, max(0, v - 0.05), min(1, v + 0.05)) for key, v in values.items()}
            adapter = None if run == "vanilla" else f"{run}{seed}"
            made_with = {"model_path": "a/model", "checkpoint": adapter, "seed": seed}
            told = {
                "date": f"2026-01-0{number + 1}T10:00:00+0000",
                "git_commit": "0123456789abcdef-dirty",
                "model": "a/model",
                "adapter_sha256": adapter,
                "data_sha256": "fedcba9876543210",
                "recipe": "official",
                "versions": {"safeeraser": "0.1.0", "torch": "2.13.0"},
            }
            more = {"inputs": {"made_with": {"settings": made_with}}, "provenance": told}
            for split in ("train", "val"):
                write(folder / f"seed{seed}" / run, f"summary_{split}.json", summary(split, **figures, **more))
            if run != "vanilla":
                settings = {"forget_loss": {"name": run}, "lr": 0.001, "seed": seed, "save_dir": f"seed{seed}/{run}"}
                write(folder / f"seed{seed}" / run, "run.json", {"settings": settings})
    return folder
