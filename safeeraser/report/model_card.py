"""The model card: the README.md that accompanies an adapter, or a model trained without one, wherever it goes.

It reports facts from `run.json`, the run's summaries and `specificity.json`. It has no text of the benchmark, no
response and no path of somebody's machine. Its last line holds a hash of everything above it, so that a card which a
person has edited is recognised and left alone.
"""

import hashlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from yaml import YAMLError

from safeeraser.benchmark.adapters import ADAPTER_FILES, RUN_FILE, run_of, trained_settings
from safeeraser.benchmark.conversation import prompt
from safeeraser.benchmark.family import Family, families, page_for, page_of_type
from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.files import read_text, write_whole
from safeeraser.benchmark.methods import shown_weight
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.benchmark.release import RELEASED_TYPE
from safeeraser.errors import BadInput
from safeeraser.report.read import Run, read_run
from safeeraser.report.sources import judges_of, warnings
from safeeraser.report.tables import paper_table
from safeeraser.report.writing import TEMPLATES, Line

CARD = "README.md"
# How the projector was trained, if it was.
PROJECTOR = {"full": "projector whole", "lora": "LoRA on the projector", "sine": "projector as W + sin(D)"}
DRAWN = {"mini", "mini-small"}  # model families of the mini benchmark
MARK = re.compile(r"<!-- safeeraser card ([0-9a-f]{64}): [^\n]*-->\n\Z")
# The text that PEFT adds to the hub's template: the quantization of the weights, and PEFT's version.
PEFTS = re.compile(
    r"(## Training procedure\s+The following `bitsandbytes`.*?)?(### Framework versions\s+- PEFT \S+)?", re.S
)
# The folders of a path that starts at the root, at home, or at . or ..; web addresses do not match.
ROOTED = re.compile(r"(?<![\w/.])(?:file://|~|\.\.?)?/(?:[^\s/|`\"']+/)+")


def write_card(folder: Path, *, repo: str | None = None, overwrite: bool = False) -> Path:
    """Write the card of a finished run into its folder, and return the card's path.

    Args:
        repo: the repository on the hub, if the run is sent there; the code in the card then loads it from there.
        overwrite: also replace a card that a person has edited.

    Raises:
        BadInput: the folder holds no finished run with its weights, a file of the run cannot be used, or a person has
            edited the card that is there.
    """
    path = folder / CARD
    text = card(folder, repo=repo)
    if not overwrite and edited(path):
        raise BadInput(f"{path}: was edited, and is left alone; --overwrite replaces it")
    if not path.exists() or read_text(path) != text:  # so a finished run that is skipped stays untouched
        with write_whole(path) as handle:
            handle.write(text)
    return path


def edited(path: Path) -> bool:
    """Whether `path` is a card that a person has edited."""
    return path.exists() and not replaceable(read_text(path))


def replaceable(text: str) -> bool:
    """Whether no person has edited this card: it is as `write_card` left it, or PEFT's template."""
    if mark := MARK.search(text):
        return _digest(text[: mark.start()]) == mark[1]
    try:
        body = ModelCard(text).text
    except (ValueError, YAMLError):  # invalid metadata
        return False
    body, template = (" ".join(part.split()) for part in (body, ModelCard.from_template(ModelCardData()).text))
    rest = body.removeprefix(template)
    return rest != body and PEFTS.fullmatch(rest.strip()) is not None


def card(folder: Path, *, repo: str | None = None) -> str:
    """The text of a finished run's card. Raises `BadInput` as `write_card` does."""
    settings, record = trained_settings(folder), run_of(folder)
    if settings is None or "finished" not in record:
        raise BadInput(f"{folder}: no finished run of forget.py, by {RUN_FILE}")
    adapter = (folder / ADAPTER_FILES[0]).is_file()
    if not adapter and not list(folder.glob("model*.safetensors")):
        raise BadInput(f"{folder}: holds neither an adapter nor a model (was it trained with save_model=false?)")
    run, base = read_run(folder), base_name(record)
    page, rows, judges = page_for(base) if base else None, _measured(run), judges_of([run])
    truth = any((row.judge or "").partition(":")[0] == "truth" for row in rows.values())
    context = {
        "run": run,
        "record": record,
        "settings": settings,
        "adapter": adapter,
        "base": base,
        "family": _family(settings),
        "license": page.license if page else None,  # derived weights have the license of their base model
        "trained": list(_trained_parts(settings)),
        "shown_weight": shown_weight,
        "prompt": prompt,
        "repo": repo,
        "demonstration": settings["model_family"]["name"] in DRAWN or truth,
        "rows": rows,
        "missing": [column.title.rstrip(" ↓↑") for key, column in COLUMNS.items() if key not in rows],
        "warnings": warnings([run], judges),
        "notes": paper_table([Line(run.title, run.figures)], [run]).notes,
        "judges": judges.spelled,
    }
    text = TEMPLATES.get_template("model_card.md.j2").render(context)
    # A judge's name may contain the folder that holds it on its server.
    text = ROOTED.sub("", f"---\n{_metadata(run, context)}\n---\n\n{text}")
    return f"{text}<!-- safeeraser card {_digest(text)}: a hash of the above; edited, it stays as it is -->\n"


def base_name(record: dict[str, Any]) -> str | None:
    """The name on the hub of a run's base model; None where it was a folder, whose name says nothing to others.

    A folder may be named as on the hub. So the run's record of a hub commit, or a known family, must confirm the name.
    """
    name = record["settings"]["model_path"]
    from_hub = (record.get("base") or {}).get("revision") or page_for(name)
    return name if from_hub and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def _family(settings: dict[str, Any]) -> Family:
    """The family of a run's model; the release's family if the run is older than the support of other families.

    A config file whose chat format differs from that of its model type is a family of its own.
    """
    recorded = settings["model_family"]
    family = page_of_type(recorded.get("model_type", RELEASED_TYPE))
    pages = (page for page in families().values() if page.name == recorded["name"] and page.chat != family.chat)
    return next(pages, family)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _measured(run: Run) -> dict[str, Row]:
    """The run's figures that are known or withheld, in the paper's order, each with its judge if it needs one. A figure
    without a protocol comes from other benchmarks."""
    rows = {key: row for key in COLUMNS if (row := run.figures.get(key)) and (row.value is not None or row.withheld)}
    for key, row in rows.items():
        judge = run.parts[row.split].judge_of(row.metric) if METRICS[row.metric].asked else None
        rows[key] = row.model_copy(update={"judge": judge})
    return rows


def _trained_parts(settings: dict[str, Any]) -> Iterator[str]:
    """The parts of the model that were trained, and how."""
    lora, everything = settings["LoRA"], settings.get("finetune") == "full"
    if not everything:
        yield f"LoRA r={lora['r']}, alpha={lora['alpha']:g}, dropout={lora['dropout']:g}"
        yield from (kind for kind in ("use_rslora", "use_dora") if lora.get(kind))
    if settings["tune_mm_projector"]:
        way = settings.get("projector", "full")
        yield PROJECTOR.get(way, f"projector ({way})")
    if settings["tune_vision_tower"]:
        yield "vision tower whole"
    if everything and settings["tune_language_model"]:
        yield "language model whole"


def _metadata(run: Run, context: dict[str, Any]) -> str:
    """The card's YAML header, which the hub indexes; its `model-index` has the figures in per cent."""
    tags = ["safety", "machine-unlearning", "safeeraser", context["family"].model_type]
    tags += ["lora"] * context["adapter"] + ["demonstration"] * context["demonstration"]
    mini = " (mini: drawn pictures)" if context["demonstration"] else ""
    return ModelCardData(
        base_model=context["base"],
        library_name="peft" if context["adapter"] else "transformers",
        license=context["license"],
        pipeline_tag="image-text-to-text",
        tags=tags,
        model_name=f"{run.title}, {context['settings']['model_family']['name']}",
        eval_results=list(_results(run, context["rows"], mini)) or None,
    ).to_yaml()


def _results(run: Run, rows: dict[str, Row], mini: str) -> Iterator[EvalResult]:
    """The figures that are not withheld, with judge, protocol and interval; then Specificity's benchmarks."""
    result = partial(EvalResult, task_type="image-text-to-text")
    for key, row in ((key, row) for key, row in rows.items() if row.protocol and not row.withheld):
        value, low, high = (None if bound is None else round(bound, 2) for bound in row.per_cent)
        more = {"judge": row.judge, "protocol": row.protocol, "low": low, "high": high, "n": row.n}
        judge = f"judge {row.judge}, " if row.judge else ""
        data = run.parts[row.split].provenance.data_sha256
        yield result(
            task_name="safety unlearning",
            dataset_type="safeeraser",
            dataset_name="SafeEraser" + mini,
            dataset_split=row.split,
            dataset_args={"sha256": data} if data else None,
            metric_type=row.metric,
            metric_name=ROOTED.sub("", f"{COLUMNS[key].title.rstrip(' ↓↑')} ({judge}protocol {row.protocol})"),
            metric_value=value,
            metric_args={name: known for name, known in more.items() if known is not None},
        )
    for name, task in (run.specificity.tasks if run.specificity else {}).items():
        error = {} if task.standard_error is None else {"standard_error": round(100 * task.standard_error, 2)}
        yield result(
            task_name="visual question answering",
            dataset_type=name,
            dataset_name=name,
            dataset_split=task.split,
            metric_type=task.metric,
            metric_value=round(100 * task.value, 2),
            metric_args={"n": task.n, **error},
        )
