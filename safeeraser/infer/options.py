"""The settings of an inference run: the options of ckpt_infer.py, given on a command line or as keywords."""

import logging
import math
from argparse import Namespace
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeeraser.arguments import (
    Arguments,
    add_options,
    count,
    count_or,
    json_object,
    one_of,
    option,
    options_in,
    several,
)
from safeeraser.benchmark.adapters import trained_settings
from safeeraser.benchmark.release import RELEASED_MODEL
from safeeraser.benchmark.responses import RELEASED, VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.requests import Selection
from safeeraser.progress import first_process

if TYPE_CHECKING:
    from safeeraser.generation.sampling import Generation

BATCH_SIZE = 8  # LLaVA-1.5-7B in bfloat16 then takes about 21 GiB, which fits on a card of 24 GB
INCOMPLETE = 3  # the exit code of a run that has ended but lacks responses
# Each declares an option in one group of the help.
choosing = partial(option, group="which responses")
drawing = partial(option, group="how they are drawn")
answering = partial(option, group="what answers")
# audit.py has the same option.
DECODE: dict[str, Any] = {
    "type": one_of("decode", ("graph", "plain")),
    "help": "local: graph: a GPU replays a step of all rows as one CUDA graph; plain: kernel by kernel, which is "
    "slower and always works (default: %(default)s)",
}


@dataclass(frozen=True)
class Responses:
    """Which responses a command line asks for, and how they are drawn. Raises `BadInput` for invalid numbers."""

    only: tuple[str, ...] = choosing(
        RELEASED,
        type=several("view", VIEWS),
        metavar="VIEW,...",
        help=f"some of {', '.join(VIEWS)} (default: the first three)",
    )
    image_free: bool = choosing(False, help="also the harmful question without a picture, as image_free_response")
    swap_pictures: bool = choosing(False, help="also on a benign picture of another category, as swapped_response")
    categories: tuple[str, ...] = choosing(
        (), type=several("category"), metavar="CATEGORY,...", help="of these categories (default: all)"
    )
    skip: int = choosing(0, metavar="N", help="leave out the first N records of each category")
    limit: int | None = choosing(
        None, type=count, metavar="N", help="the first N records of each category, after --skip (default: all)"
    )
    greedy: bool = drawing(False, help="take the likeliest token instead of sampling")
    temperature: float = drawing(1.0, help="(default: %(default)s)")
    top_p: float = drawing(0.9, help="the share of probability that is drawn from (default: %(default)s)")
    max_new_tokens: int = drawing(512, type=count, metavar="N", help="tokens a response at most (default: %(default)s)")
    seed: int = drawing(233, help="of each response, with its request's name (default: %(default)s)")

    def __post_init__(self) -> None:
        if self.skip < 0:
            raise BadInput("--skip must be at least 0")
        if not 0 < self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise BadInput("--temperature must be above 0 (--greedy for none), and --top_p above 0 and at most 1")

    @property
    def selection(self) -> Selection:
        """The views to ask, and the records to ask about."""
        crossed = (("image_free", self.image_free), ("swapped", self.swap_pictures))
        views = dict.fromkeys((*self.only, *(view for view, wanted in crossed if wanted)))
        return Selection(tuple(views), **options_in(Selection, vars(self)))

    @property
    def generation(self) -> "Generation":
        """How responses are drawn, and from which seed."""
        from safeeraser.generation.sampling import Generation  # imported late because torch takes long to load

        return Generation(**options_in(Generation, vars(self)))


@dataclass(frozen=True, kw_only=True)
class Options:
    """The settings of an inference run."""

    eval_file: Path = option(
        Path("dataset/all_val.json"), help="the data file whose questions are asked (default: %(default)s)"
    )
    model_path: str = option(
        None,
        help="a folder, or a name on the Hugging Face hub (default: the one that the adapter's folder names, else "
        f"{RELEASED_MODEL})",
    )
    output_file: Path = option(help="where the predictions go, in the data file's own format")
    checkpoint_path: Path | None = option(
        None, help="a PEFT folder or the release's checkpoint.pt; none: the untouched model"
    )
    loss_type: str = option("", help="the adapter's method, to be recorded; refused if it is another")
    lora_alpha: float = option(
        256, help="scaling of a checkpoint.pt, which does not say its own (default: %(default)s)"
    )
    adapter_scale: float = option(
        1.0,
        metavar="X",
        help="local: how much of the adapter: 0 the untouched model, 1 the trained one (default: %(default)s)",
    )
    allow_other_base: bool = option(
        False, help="local: allow a checkpoint that was trained on other weights than the model's"
    )
    overwrite: bool = option(False, help="replace an output file that exists")
    selection: Selection = field(default_factory=Selection)
    generation: "Generation" = field(default_factory=lambda: Responses().generation)
    attack: str | None = choosing(
        None,
        type=one_of("attack", ATTACKS),
        metavar="NAME",
        help=f"what is done to pictures, questions or the model first: {', '.join(ATTACKS)}",
    )
    backend: str = answering(
        "local",
        type=one_of("backend", ("local", "openai")),  # the keys of run.ENGINES; importing it would load torch
        help="local: the built-in engine; openai: a server that speaks the OpenAI protocol (default: %(default)s)",
    )
    batch_size: int | None = answering(
        BATCH_SIZE,  # None: found by the engine
        type=count_or("auto"),
        metavar="N",
        help="local: responses at a time; float32 gives the same ones, bfloat16 and float16 round differently; auto: "
        "as many as fit into free memory (default: %(default)s)",
    )
    workers: int | None = answering(
        2,  # as in training; None: the command itself prepares pictures
        type=count_or("none"),
        metavar="N",
        help="local: processes that prepare pictures, which changes no response; none: the command itself does "
        "(default: %(default)s)",
    )
    dtype: str = answering(
        "auto",
        help="local: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16 (default: %(default)s)",
    )
    quantization: str = answering(
        "none",
        type=one_of("quantization", ("none", "int8", "int4", "nf4")),  # `none` and model.rounding.ROUNDINGS
        help="local: round the language model's merged weights as int8, int4 or nf4 holds them (default: %(default)s)",
    )
    decode: str = answering("graph", **DECODE)
    base_url: str | None = answering(None, help="openai: the server's address; its model is asked for as --model_path")
    concurrency: int = answering(32, type=count, metavar="N", help="openai: requests at a time (default: %(default)s)")
    extra_body: dict[str, Any] = option(
        {}, group="what answers", type=json_object, metavar="JSON", help="openai: parameters of the server's own"
    )

    def __post_init__(self) -> None:
        if not math.isfinite(self.adapter_scale):
            raise BadInput("--adapter_scale must be a finite number")

    @cached_property
    def base(self) -> dict[str, Any]:
        """The fingerprint of the model that the built-in engine loads."""
        from safeeraser.model.lineage import fingerprint

        return fingerprint(self.model_path)

    @cached_property
    def training(self) -> dict[str, Any] | None:
        """The method and recipe of the adapter, given or merged into the model; None if no `run.json` names them."""
        settings = trained_settings(self.checkpoint_path or Path(self.model_path))
        return {"method": settings["forget_loss"]["name"], "recipe": settings["recipe"]} if settings else None


def arguments(description: str | None = None) -> Arguments:
    """The command line parser of ckpt_infer.py."""
    parser = Arguments(description=description)
    add_options(parser, Options, Responses)
    return parser


def options_of(given: Namespace, selection: Selection | None = None) -> Options:
    """The settings that the parsed options give; `selection` replaces the selection that the options describe. Raises
    `BadInput` for invalid numbers."""
    responses, values = Responses(**options_in(Responses, vars(given))), options_in(Options, vars(given))
    from safeeraser.model.merge import base_of  # imported late too

    values["model_path"] = given.model_path or base_of(given.checkpoint_path)
    return Options(**values, selection=selection or responses.selection, generation=responses.generation)


def speak() -> None:
    """Show the log messages of a run. If there are several processes, only the first shows more than warnings."""
    logging.basicConfig(level=logging.INFO if first_process() else logging.WARNING, format="%(message)s")
