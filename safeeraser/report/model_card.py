"""The model card: the README.md that goes with an adapter, or with a model that was trained whole, wherever it goes.

It tells what `run.json` and the run's summaries tell, and nothing of the benchmark's texts, of people's responses or of
where files lie on somebody's machine. Its last line bears a hash of all before it, by which a card that a person has
edited is known, and left alone.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from yaml import YAMLError

from safeeraser import __version__
from safeeraser.benchmark.conversation import prompt
from safeeraser.benchmark.family import Family, families, page_for, page_of_type
from safeeraser.benchmark.figures import Row
from safeeraser.benchmark.files import ADAPTER_FILES, RUN_FILE, read_text, run_of, trained_settings, write_whole
from safeeraser.benchmark.methods import shown_weight
from safeeraser.benchmark.metrics import COLUMNS, METRICS, Figure
from safeeraser.benchmark.release import RELEASED_TYPE
from safeeraser.errors import BadInput
from safeeraser.report.methods import group_runs
from safeeraser.report.read import Run, read_run
from safeeraser.report.robustness import read_cards
from safeeraser.report.sources import decisions, judges_of, warnings
from safeeraser.report.tables import method_line, paper_table
from safeeraser.report.writing import render

CARD = "README.md"
# By the hub's word.
LICENSES = {"llama2": "the Llama 2 Community License", "apache-2.0": "the Apache License 2.0"}
DATA = {"safeeraser": "the form of the SafeEraser benchmark", "own": "a form of its maker's own"}
# How the projector was trained, where it was.
PROJECTOR = {"full": "projector whole", "lora": "LoRA on the projector", "sine": "projector as W + sin(D)"}
DRAWN = {"mini", "mini-small"}  # model families of the mini benchmark
QUESTION = "What is in this picture?"
HERE, BASE = "PATH/TO/THIS/FOLDER", "PATH/TO/THE/BASE/MODEL"  # what the code says where nothing can be named
MARK = re.compile(r"<!-- safeeraser card ([0-9a-f]{64}): [^\n]*-->\n\Z")
# What PEFT adds to the hub's template: the bits of the weights, and its own version.
PEFTS = re.compile(
    r"(## Training procedure\s+The following `bitsandbytes`.*?)?(### Framework versions\s+- PEFT \S+)?", re.S
)
# The folders of a path that starts at the root, at home, or here; not what follows the colon of an address on the web.
ROOTED = re.compile(r"(?<![\w/.])(?:file://|~|\.\.?)?/(?:[^\s/|`\"']+/)+")


class Line(NamedTuple):
    """A figure as the card's table shows it, and what it stands on."""

    title: str
    split: str
    figure: Figure
    judge: str
    protocol: str


def write_card(folder: Path, *, repo: str | None = None, overwrite: bool = False) -> Path:
    """Write the card of a finished run into its folder; returns its file.

    Args:
        repo: the hub's name for it, if it is to go there: what the card's code then loads.
        overwrite: replace a card that a person has edited too.

    Raises:
        BadInput: the folder holds no finished run with its weights, a file of it cannot be used, or the card that is
            there is somebody's own.
    """
    path = folder / CARD
    text = card(folder, repo=repo)
    if not overwrite and edited(path):
        raise BadInput(f"{path}: was edited, and is left alone; --overwrite replaces it")
    if not path.exists() or read_text(path) != text:  # a finished run that is passed over stays as it is
        with write_whole(path) as handle:
            handle.write(text)
    return path


def edited(path: Path) -> bool:
    """Whether a card is there that a person wrote at."""
    return path.exists() and not replaceable(read_text(path))


def replaceable(text: str) -> bool:
    """Whether nobody wrote at this card: it is one of ours as it was written, or PEFT's template."""
    if mark := MARK.search(text):
        return _digest(text[: mark.start()]) == mark[1]
    try:
        body = ModelCard(text).text
    except (ValueError, YAMLError):  # metadata that are none
        return False
    body, template = (" ".join(part.split()) for part in (body, ModelCard.from_template(ModelCardData()).text))
    rest = body.removeprefix(template)
    return rest != body and PEFTS.fullmatch(rest.strip()) is not None


def card(folder: Path, *, repo: str | None = None) -> str:
    """The text of a finished run's card. Raises `BadInput` as `write_card` does."""
    settings, told = trained_settings(folder), run_of(folder)
    if settings is None or "finished" not in told:
        raise BadInput(f"{folder}: no finished run of forget.py, by {RUN_FILE}")
    adapter = (folder / ADAPTER_FILES[0]).is_file()
    if not adapter and not list(folder.glob("model*.safetensors")):
        raise BadInput(f"{folder}: holds neither an adapter nor a model (was it trained with save_model=false?)")
    run, base, family = read_run(folder), base_name(told), _family(settings)
    (method,) = group_runs([run])
    lines, judges = list(_lines(run)), judges_of([run])
    truth = any(line.judge.partition(":")[0] == "truth" for line in lines)
    audit = next(iter(read_cards([run])), None)
    context = {
        "run": run,
        "told": told,
        "settings": settings,
        "adapter": adapter,
        "base": base,
        "family": family,
        "license": _license(base),
        "licenses": LICENSES,
        "demonstration": settings["model_family"]["name"] in DRAWN or truth,
        "data": DATA.get(settings["data"]["name"] if "data" in settings else "safeeraser", DATA["own"]),
        "recipe": dict(_recipe(told, settings)),
        "lines": lines,
        "missing": [column.title.rstrip(" ↓↑") for key, column in COLUMNS.items() if key not in _known(run)],
        "warnings": warnings([method.run], method.seeds, judges),
        "notes": paper_table([method_line(method)], method.seeds, []).notes,
        "judges": judges.spelled,
        "audit": audit
        and audit.conclusions.headline
        and {
            "headline": audit.conclusions.headline,
            "findings": audit.audit.findings,
            "missing": audit.audit.missing,
        },
        "quoted": {
            "base": json.dumps(base or BASE),
            "place": json.dumps(repo or HERE),
            "prompt": json.dumps(prompt(QUESTION, "user")),
            "question": json.dumps(QUESTION),
        },
        "version": __version__,
    }
    text = f"---\n{_metadata(run, context)}\n---\n\n{render('model_card.md.j2', **context)}"
    text = ROOTED.sub("", text)  # a judge may be named for the folder that its server has it in
    return f"{text}<!-- safeeraser card {_digest(text)}: a hash of the above; edited, it stays as it is -->\n"


def base_name(told: dict[str, Any]) -> str | None:
    """The name on the hub of a run's base model; None where it was a folder, whose name says nothing to others.

    It is known for the hub's by the commit that the weights came from; a folder may be named as on the hub.
    """
    name = told["settings"]["model_path"]
    from_hub = (told.get("base") or {}).get("revision") or page_for(name)
    return name if from_hub and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def _license(base: str | None) -> str | None:
    """What comes of a model's weights goes under the same as they."""
    page = page_for(base) if base else None
    return page.license if page else None


def _family(settings: dict[str, Any]) -> Family:
    """The family of a run's model; that of the release where the run is from before there were others.

    A page that chats otherwise than its type does is a family of its own.
    """
    told = settings["model_family"]
    family = page_of_type(told.get("model_type", RELEASED_TYPE))
    own = (page for page in families().values() if page.name == told["name"] and page.chat != family.chat)
    return next(own, family)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _known(run: Run) -> dict[str, Row]:
    """The paper's columns that have a figure, or one withheld, in its order; blank and wrong ones are the report's."""
    found = run.figures
    told = {key: found[key] for key in COLUMNS if key in found}
    return {key: figure for key, figure in told.items() if figure.value is not None or figure.withheld}


def _lines(run: Run) -> Iterator[Line]:
    """The figures that are known, in the paper's order; Specificity has no judge."""
    decided = {split: dict(decisions(part)) for split, part in run.parts.items()}
    for key, figure in _known(run).items():
        column = COLUMNS[key]
        one = None if column.metric == "specificity" else decided.get(column.split, {}).get(column.metric)
        protocol = run.parts[column.split].protocol if METRICS[column.metric].view else ""
        split = column.split if METRICS[column.metric].view else ""
        yield Line(column.title, split, figure, one.judge if one else "", protocol)


def _recipe(told: dict[str, Any], settings: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What was trained, and how, each by its name. No file is named."""
    base, lora, whole = told.get("base") or {}, settings["LoRA"], settings.get("finetune") == "full"
    weights = settings["recipe"].get("weights") or {}
    terms = (
        f"{shown_weight(term['weight'] if weights.get(name) is None else weights[name])} × {name} "
        f"({term['loss']} on {' and '.join(term['views'])})"
        for name, term in settings["forget_loss"]["terms"].items()
    )
    yield "method", f"{settings['forget_loss']['name']}: {', '.join(terms)}"
    yield "recipe", settings["recipe"]["name"]
    if base.get("weights"):
        revision = f"revision {base['revision']}, " if base.get("revision") else ""
        yield "base", f"{revision}weights {base['weights'][:12]} (a fingerprint)"
    for parent in told.get("parents", []):
        yield f"before it ({parent['how']})", f"{parent['method'] or 'a run that is not told'}, {parent['split']}"
    kinds = [f"LoRA r={lora['r']}, alpha={lora['alpha']:g}, dropout={lora['dropout']:g}"] * (not whole)
    kinds += [kind for kind in ("use_rslora", "use_dora") if lora.get(kind) and not whole]
    kinds += [PROJECTOR[settings.get("projector", "full")]] if settings["tune_mm_projector"] else []
    tuned = {"vision tower": "tune_vision_tower"} | ({"language model": "tune_language_model"} if whole else {})
    kinds += [f"{part} whole" for part, key in tuned.items() if settings[key]]
    yield "trained", ", ".join(kinds)
    if mask := told.get("mask"):
        share, asked = mask["trained"] / mask["compared"], settings["mask"]
        yield "gradient mask", f"{share:.1%} of LoRA's weights, by {asked['from']} against {asked['against']}"
    if counts := told.get("trained_parameters"):
        yield "parameters", ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    engine = told.get("engine") or {"name": "single", "processes": 1}
    yield (
        "optimization",
        f"lr {settings['lr']:g} ({settings['lr_scheduler_type']}, warm-up {settings['warmup_ratio']:g}), weight decay "
        f"{settings['weight_decay']:g}, {told.get('optimizer_steps', 'unknown')} steps of {settings['batch_size']} × "
        f"{settings['gradient_accumulation_steps']} items, {engine['processes']} process(es), seed {settings['seed']}",
    )
    precision = f"dtype {settings['dtype']}, quantization {settings.get('quantization', 'none')}"
    yield "machine", f"{engine['name']}, {precision}, {told.get('gpu') or 'no GPU'}"
    if settings.get("trainer"):
        yield "set beside", ", ".join(settings["trainer"])
    if stopped := (told.get("sittings") or [{}])[-1].get("stopped"):
        yield "stopped", f"{stopped['reason']}; kept is the adapter after step {stopped['adapter_of_step']}"


def _metadata(run: Run, context: dict[str, Any]) -> str:
    """The card's head in YAML, by which the hub files it; its `model-index` has the figures in per cent."""
    base, adapter, kind = context["base"], context["adapter"], context["family"].model_type
    tags = ["safety", "machine-unlearning", "safeeraser", kind, *(["lora"] if adapter else [])]
    data = ModelCardData(
        base_model=base,
        library_name="peft" if adapter else "transformers",
        license=context["license"],
        pipeline_tag="image-text-to-text",
        tags=tags + ["demonstration"] * context["demonstration"],
        model_name=f"{run.title}, {context['settings']['model_family']['name']}",
        eval_results=list(_results(run, context)) or None,
    )
    try:
        return data.to_yaml().strip()
    except (ValueError, HFValidationError) as error:
        raise BadInput(f"{run.folder}: no metadata of a card ({error})") from None


def _results(run: Run, context: dict[str, Any]) -> Iterator[EvalResult]:
    """The figures that stand, each with its judge, its protocol and its interval; those withheld are not there."""
    task = {"task_type": "image-text-to-text", "task_name": "safety unlearning"}
    mini = " (mini: drawn pictures)" if context["demonstration"] else ""
    for (key, figure), line in zip(_known(run).items(), context["lines"], strict=True):
        metric, value = COLUMNS[key].metric, figure.per_cent[0]
        if value is None or metric == "specificity":
            continue
        part = run.parts[line.split]
        low, high = (None if bound is None else round(bound, 2) for bound in figure.per_cent[1:])
        named = f"judge {line.judge}, " if line.judge else ""
        told = {"judge": line.judge or None, "protocol": line.protocol, "low": low, "high": high, "n": figure.n}
        yield EvalResult(
            **task,
            dataset_type="safeeraser",
            dataset_name="SafeEraser" + mini,
            dataset_split=line.split,
            dataset_args={"sha256": digest} if (digest := part.provenance.data_sha256) else None,
            metric_type=metric,
            metric_name=ROOTED.sub("", f"{line.title.rstrip(' ↓↑')} ({named}protocol {line.protocol})"),
            metric_value=round(value, 2),
            metric_args={name: of for name, of in told.items() if of is not None},
        )
    for name, one in (run.specificity.tasks if run.specificity else {}).items():
        error = {} if one.standard_error is None else {"standard_error": round(100 * one.standard_error, 2)}
        yield EvalResult(
            **task | {"task_name": "visual question answering"},
            dataset_type=name,
            dataset_name=name,
            dataset_split=one.split,
            metric_type=one.metric,
            metric_value=round(100 * one.value, 2),
            metric_args={"n": one.n, **error},
        )
