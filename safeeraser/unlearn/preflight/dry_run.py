"""The dry run: reports the work and the needs of a run, without weights and before anything is written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from PIL import Image
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, PreTrainedConfig, TrainingArguments

from safeeraser.benchmark.conversation import IGNORE
from safeeraser.benchmark.methods import shown_weight
from safeeraser.benchmark.pictures import picture_size
from safeeraser.errors import BadInput
from safeeraser.model.load import choose_dtype, load_config
from safeeraser.model.stored import check_adapter, read_adapter
from safeeraser.model.turns import Row
from safeeraser.unlearn.config.engine import DTYPE_OF, Engine
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.batch import PlanDataset
from safeeraser.unlearn.data.plan import Step
from safeeraser.unlearn.job import Job, without_effect
from safeeraser.unlearn.load import collator, dataset_of, equip, load_dataset, reparametrize
from safeeraser.unlearn.objective.method import Method
from safeeraser.unlearn.preflight.machine import advice, check_machine, check_shared_memory
from safeeraser.unlearn.preflight.memory import MicroStep, Part, Setup, memory

Size = tuple[int, int]  # a conversation's tokens, including the picture's; and how many are the answer's


def dry_run(settings: Settings, job: Job, arguments: TrainingArguments) -> None:
    """Check what can be checked without weights, and print counts of data, steps and parameters, and the memory needed.

    Raises:
        BadInput: there is no such model, a conversation has no room for its answer, or `init_adapter` does not fit.
            Also if the GPU machine here cannot run the engine, or if loading processes have no room for batches.
    """
    if torch.cuda.device_count() and not settings.gpu_memory:  # else the run will train on another machine
        check_machine(job.engine)
    try:
        config = load_config(settings.model_path)
    except BadInput as error:
        raise BadInput(
            f"{error}; a dry run needs no weights, only config.json, the processor and the tokenizer, from the hub "
            "or from a folder given as model_path"
        ) from None
    dtype = dtype_of(settings, job.engine)
    steps = read_steps(settings, job, dtype, arguments)
    model = outline(settings, config, dtype)
    parameters = count_parameters(model, settings)
    if settings.init_adapter:
        check_adapter(model, read_adapter(settings.init_adapter), settings.init_adapter)

    def estimate(settings: Settings, engine: Engine) -> list[Part]:
        """The parts of the memory under the given settings and engine."""
        return memory(outline(settings, config, dtype), Setup(settings, engine, dtype), *steps)

    parts = memory(model, Setup(settings, job.engine, dtype), *steps)
    unit, size = ("GiB", 2**30) if sum(part.device for part in parts) >= 2**30 else ("MiB", 2**20)
    sizes = {part.name: (part.device / size, part.cpu / size) for part in parts}
    title = f"memory of each process ({job.engine.name}, {str(dtype).removeprefix('torch.')})"
    show(
        f"Dry run: {settings.method.name}, recipe {settings.recipe.name}, {settings.model_path}",
        table(("data and steps", ""), counts(settings, job, steps), "{:,}"),
        table(("parameters", "trained", "frozen"), parameters, "{:,}"),
        table((title, f"device, {unit}", f"CPU, {unit}"), sizes, "{:.2f}"),
        *beside_plain_steps(settings, job),
        "The memory is an estimate: CUDA and its libraries take about 1 GiB more, of several processes 2 GiB and 5%.",
        *advice(settings, job.engine, parts, estimate, items=len(job.plan)),
        *without_effect(settings),
    )
    if settings.dtype == "auto" and dtype is torch.float32:
        show("There is no GPU here, so dtype=auto is float32; dtype=bfloat16 shows what a GPU would need.")


def beside_plain_steps(settings: Settings, job: Job) -> Iterator[str]:
    """A sentence on each thing that a run does in addition to plain steps with fixed weights."""
    for name, weight in settings.method.moving.items():
        yield f"The weight of {name} moves: {shown_weight(weight.model_dump())}."
    if cost := settings.step.cost(settings.method, job.schedule.steps):
        yield f"The step {settings.step.name} {cost}."
    if mask := settings.mask:
        yield (
            f"The gradient mask trains at most {mask.top:.0%} of the LoRA weights, by their gradients on {mask.from_} "
            f"against {mask.against}: {len(job.compared)} items of each go forward and backward first, one by one."
        )


def read_steps(settings: Settings, job: Job, dtype: torch.dtype, arguments: TrainingArguments) -> list[MicroStep]:
    """The plan's `planned_steps`. Raises `BadInput` if an item's answer or the loading of batches has no room."""
    dataset = load_dataset(settings, job, check=False)  # `planned_steps` checks it
    steps, preprocessor = planned_steps(settings, dataset), dataset.preprocessor
    if not settings.gpu_memory:
        check_shared_memory(dataset, collator(settings, preprocessor, dtype), arguments, job.engine.here)
    if compared := job.data.compared:  # the compared items must leave room for their answers too
        conversation_sizes(dataset_of(settings, compared, job.compared, preprocessor))
    return steps


def dtype_of(settings: Settings, engine: Engine) -> torch.dtype:
    """The frozen weights' dtype at launch. `auto`: the engine's, bfloat16 with `gpu_memory`, or this machine's."""
    dtype = DTYPE_OF.get(engine.mixed_precision or "") or ("bfloat16" if settings.gpu_memory else "auto")
    return choose_dtype(dtype if settings.dtype == "auto" else settings.dtype)


def outline(settings: Settings, config: PreTrainedConfig, dtype: torch.dtype) -> nn.Module:
    """The model with its adapter, if it has one, on the meta device: names and shapes, no contents. Raises `BadInput`
    if the settings do not fit the model."""
    attention = "eager" if settings.attention == "eager" else "sdpa"
    with torch.device("meta"):
        base = AutoModelForImageTextToText.from_config(config, dtype=dtype, attn_implementation=attention)
        model = equip(base.requires_grad_(False), settings)
        reparametrize(model, settings)
        return model


def count_parameters(model: nn.Module, settings: Settings) -> dict[str, tuple[int, int]]:
    """Trained and frozen parameters by part. A part that PEFT copies to train is in both: KL needs the original."""
    counts = {part: [0, 0] for part in ("LoRA", "projector", "vision_tower", "language_model", "head")}
    for name, parameter in model.named_parameters():
        counts[settings.family.part_of(name)][not parameter.requires_grad] += parameter.numel()
    return {part.replace("_", " "): (trained, frozen) for part, (trained, frozen) in counts.items()}


def conversation_sizes(dataset: PlanDataset) -> list[dict[str, Size]]:
    """The sizes of each plan item's conversations, by view. Raises `BadInput` for one without room for its answer.

    A refusal takes the answer's place in its view. Each refusal is tokenized once, after the shortest prompt.
    """
    measured, rooms = {}, []
    for view, items in dataset.items.items():
        filled = [replace(item, answer=dataset.refusals[0]) for item in items] if view == "refusal" else items
        rows = [dataset.encode(item) for item in filled]
        measured[view] = [_size(row) for row in rows]
        if view == "refusal":
            rooms = [dataset.preprocessor.most_tokens(row.input_ids, dataset.max_length) for row in rows]
    refusals = []
    if "refusal" in measured:
        prompts = [tokens - answer for tokens, answer in measured["refusal"]]
        shortest = dataset.items["refusal"][prompts.index(min(prompts))]
        refusals = [_size(dataset.encode(replace(shortest, answer=refusal)))[1] for refusal in dataset.refusals]

    def size(view: str, step: Step) -> Size:
        if view != "refusal":
            return measured[view][step.index(view)]
        prompt = prompts[step.forget]
        answer = min(refusals[step.index(view)], rooms[step.forget] - prompt)
        return prompt + answer, answer

    return [{view: size(view, step) for view in measured} for step in dataset.plan]


def _size(row: Row) -> Size:
    return len(row.input_ids), sum(label != IGNORE for label in row.labels)


def planned_steps(settings: Settings, dataset: PlanDataset) -> list[MicroStep]:
    """The largest micro-step of the method, and that of the method that the step relearns, if there is one.

    Raises `BadInput` as `conversation_sizes` does.
    """
    sizes, picture, relearned = conversation_sizes(dataset), largest_picture(dataset), settings.step.relearned
    # All else that a step runs the model for uses a part of the method's own rows.
    methods = [settings.method, *([relearned] if relearned else [])]
    return [largest_step(settings, method, sizes, picture) for method in methods]


def largest_picture(dataset: PlanDataset) -> Mapping[str, Tensor]:
    """The model's inputs for a blank picture of the size that takes the most tokens; empty if there are no pictures."""
    prepares = dataset.preprocessor
    pictures = {item.picture for items in dataset.items.values() for item in items if item.picture}
    longest = max(pictures, key=lambda picture: len(prepares.place(lambda: picture_size(picture))), default=None)
    return {} if longest is None else prepares.show(Image.new("RGB", picture_size(longest))).inputs


def largest_step(
    settings: Settings, method: Method, sizes: Sequence[Mapping[str, Size]], picture: Mapping[str, Tensor]
) -> MicroStep:
    """A micro-step as large as any of the plan's in each respect, with the rows that `method` reads.

    Args:
        sizes: of the plan's items, by view.
        picture: the model's inputs for the largest picture.
    """
    items, sizes = min(settings.batch_size, len(sizes)), [{view: item[view] for view in method.views} for item in sizes]
    reads = [positions_read(method, item) for item in sizes]
    steps = [reads[start : start + items] for start in range(0, len(reads), items)]
    terms = {name: max(sum(read[name] for read in step) for step in steps) for name in method.terms}
    length = max(tokens for item in sizes for tokens, _ in item.values())
    return MicroStep(method, items * len(method.views), length, terms, picture)


def positions_read(method: Method, item: Mapping[str, Size]) -> dict[str, int]:
    """How many positions of an item's conversations each term reads (`Collator` marks them)."""
    longest = max(tokens for tokens, _ in item.values())
    return {
        name: sum({"row": item[view][0], "all": longest}.get(term.positions, item[view][1]) for view in term.views)
        for name, term in method.terms.items()
    }


def counts(settings: Settings, job: Job, steps: Sequence[MicroStep]) -> dict[str, tuple[int]]:
    """The amount of data, the length of the run, and the sizes of its largest micro-steps, the method's first."""
    rows = {
        "records": job.data.records,
        "pictures": len({item.picture for view in job.data.items.values() for item in view if item.picture}),
        **{f"{view} items": len(items) for view, items in job.data.items.items()},
        "bad items left out": job.data.left_out,
        "refusals": len(job.data.refusals),
        "items of the plan": len(job.plan),
        "optimizer steps": job.schedule.steps,
        "of them warm-up": job.schedule.warmup,
        "processes": job.engine.processes,
        "micro-steps a step, each process": settings.gradient_accumulation_steps,
        "items left out: no full micro-step for every process": job.schedule.left_out,
        "rows a micro-step": steps[0].rows,
        "tokens of the longest row": max(step.length for step in steps),
        **{f"positions that {name} reads": count for step in steps for name, count in step.terms.items()},
    }
    return {name: (count,) for name, count in rows.items()}


def show(*parts: str | Table) -> None:
    """Print lines and tables."""
    console = Console(highlight=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def table(head: Sequence[str], rows: Mapping[str, Sequence[float]], number: str) -> Table:
    """A table of named rows of numbers in the format `number`. Several columns get a last row with their sums."""
    if len(head) > 2:
        rows = {**rows, "total": [sum(column) for column in zip(*rows.values(), strict=True)]}
    drawn = Table(*head, box=SIMPLE_HEAD)
    for column in drawn.columns[1:]:
        column.justify = "right"
    for name, values in rows.items():
        drawn.add_row(name, *(number.format(value) if value else "" for value in values))
    return drawn
