"""The options of ckpt_infer.py, on a command line or as keywords."""

from __future__ import annotations

import logging
import math
from argparse import Namespace
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from safeeraser.arguments import Arguments, count, count_or, json_object, one_of, several
from safeeraser.benchmark.release import RELEASED_MODEL
from safeeraser.benchmark.responses import RELEASED, VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS
from safeeraser.progress import first_process

if TYPE_CHECKING:
    from safeeraser.generation.sampling import Generation
    from safeeraser.infer.options import Options

BACKENDS = ("local", "openai")
BATCH_SIZE = 8  # LLaVA-1.5-7B in bfloat16 takes some 21 GiB with it, which a card of 24 GB has
WORKERS = 2  # as in training
DECODES = ("graph", "plain")
INCOMPLETE = 3  # the exit code of a run that is through, but lacks responses
QUANTIZATIONS = ("none", "int8", "int4", "nf4")  # the keys of model.ROUNDINGS, which torch would have to load first


def arguments(description: str | None = None) -> Arguments:
    """All options, with their help."""
    parser = Arguments(description=description)
    paths(parser.add_argument)
    responses(parser.add_argument_group("which responses").add_argument)
    drawing(parser.add_argument_group("how they are drawn").add_argument)
    engine(parser.add_argument_group("what answers").add_argument)
    return parser


def own_arguments(description: str | None = None) -> Arguments:
    """The options of `python -m safeeraser.benchmark.answers`; under its own names or those of ckpt_infer.py."""
    parser = Arguments(prog="python -m safeeraser.benchmark.answers", description=description)
    add = parser.add_argument
    add("--model_path", "--model", required=True, help="whose answers: a folder, or a name on the Hugging Face hub")
    add(
        "--eval_file",
        "--data",
        type=Path,
        default=Path("dataset/all_train.json"),
        help="the data file whose questions are asked; it stays as it is (default: %(default)s)",
    )
    add("--output_file", "--out", type=Path, required=True, help="where the data file with the answers goes")
    add("--prediction", action="store_true", help="also the Prediction of the harmless pairs")
    add("--overwrite", action="store_true", help="replace an output file that exists")
    drawing(parser.add_argument_group("how they are drawn").add_argument)
    engine(parser.add_argument_group("what answers").add_argument)
    return parser


def speak() -> None:
    """Show what is told of a run. Of several processes the first one speaks for all."""
    logging.basicConfig(level=logging.INFO if first_process() else logging.WARNING, format="%(message)s")


def paths(add: Callable) -> None:
    """What is asked of what, and where the answers go."""
    add(
        "--eval_file",
        type=Path,
        default=Path("dataset/all_val.json"),
        help="the data file whose questions are asked (default: %(default)s)",
    )
    add(
        "--model_path",
        help="a folder, or a name on the Hugging Face hub (default: the one that the adapter's folder names, else "
        f"{RELEASED_MODEL})",
    )
    add("--output_file", type=Path, required=True, help="where the predictions go, in the data file's own format")
    add("--checkpoint_path", type=Path, help="a PEFT folder or the release's checkpoint.pt; none: the untouched model")
    add("--loss_type", default="", help="the adapter's method, recorded; refused if the adapter was trained otherwise")
    add(
        "--lora_alpha",
        type=float,
        default=256,
        help="scaling of a checkpoint.pt, which does not say its own (default: %(default)s)",
    )
    add(
        "--adapter_scale",
        type=float,
        default=1.0,
        metavar="X",
        help="local: how much of the adapter: 0 the untouched model, 1 the trained one (default: %(default)s)",
    )
    add(
        "--allow_other_base",
        action="store_true",
        help="local: also if the checkpoint was trained on other weights than the model's",
    )
    add("--overwrite", action="store_true", help="replace an output file that exists")


def responses(add: Callable) -> None:
    """Which requests there are."""
    add(
        "--only",
        type=several("view", VIEWS),
        default=RELEASED,
        metavar="VIEW,...",
        help=f"some of {', '.join(VIEWS)} (default: the first three)",
    )
    add("--image_free", action="store_true", help="also the harmful question without a picture, as image_free_response")
    add(
        "--swap_pictures", action="store_true", help="also on a benign picture of another category, as swapped_response"
    )
    add(
        "--categories",
        type=several("category"),
        default=(),
        metavar="CATEGORY,...",
        help="of these categories (default: all)",
    )
    add("--skip", type=int, default=0, metavar="N", help="leave out the first N records of each category")
    add("--limit", type=count, metavar="N", help="of the first N records of each category (default: all)")
    add(
        "--attack",
        type=one_of("attack", ATTACKS),
        metavar="NAME",
        help=f"what is done to pictures, questions or the model first: {', '.join(ATTACKS)}",
    )


def drawing(add: Callable) -> None:
    """What decides each response."""
    add("--greedy", action="store_true", help="take the likeliest token instead of sampling")
    add("--temperature", type=float, default=1.0, help="(default: %(default)s)")
    add("--top_p", type=float, default=0.9, help="the share of probability that is drawn from (default: %(default)s)")
    add(
        "--max_new_tokens",
        type=count,
        default=512,
        metavar="N",
        help="tokens a response at most (default: %(default)s)",
    )
    add("--seed", type=int, default=233, help="of each response, with its request's name (default: %(default)s)")


def engine(add: Callable) -> None:
    """What answers, which decides none."""
    add(
        "--backend",
        type=one_of("backend", BACKENDS),
        default="local",
        help="local: the built-in engine; openai: a server that speaks the OpenAI protocol (default: %(default)s)",
    )
    add(
        "--batch_size",
        type=count_or("auto"),
        default=BATCH_SIZE,
        metavar="N",
        help="local: responses at a time, which in float32 changes none, and in bfloat16 and float16 rounds otherwise; "
        "auto: as many as should fit what is free, fewer if they do not (default: %(default)s)",
    )
    add(
        "--workers",
        type=count_or("none"),
        default=WORKERS,
        metavar="N",
        help="local: processes that prepare pictures, which changes no response; none: the command itself does "
        "(default: %(default)s)",
    )
    add(
        "--dtype",
        default="auto",
        help="local: auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16 (default: %(default)s)",
    )
    add(
        "--quantization",
        type=one_of("quantization", QUANTIZATIONS),
        default="none",
        help="local: round the language model's merged weights as int8, int4 or nf4 holds them (default: %(default)s)",
    )
    decode(add)
    add("--base_url", help="openai: the server's address; its model is asked for as --model_path")
    add("--concurrency", type=count, default=32, metavar="N", help="openai: requests at a time (default: %(default)s)")
    add("--extra_body", type=json_object, default={}, metavar="JSON", help="openai: parameters of the server's own")


def decode(add: Callable) -> None:
    """How the built-in engine's steps reach a GPU."""
    add(
        "--decode",
        type=one_of("decode", DECODES),
        default="graph",
        help="local: graph: a GPU replays a step of all rows as one CUDA graph; plain: kernel by kernel, which is "
        "slower and always works (default: %(default)s)",
    )


def options_of(given: Namespace) -> Options:
    """What was asked, by the options as they were parsed. Raises `BadInput` for numbers that make no sense."""
    if given.skip < 0:
        raise BadInput("--skip must be at least 0")
    if not math.isfinite(given.adapter_scale):
        raise BadInput("--adapter_scale must be a finite number")
    generation = generation_of(given)
    # Only now, since torch takes its time to load.
    from safeeraser import model as models
    from safeeraser.infer.options import Options
    from safeeraser.infer.requests import Selection

    crossed = (("image_free", given.image_free), ("swapped", given.swap_pictures))
    views = tuple(dict.fromkeys((*given.only, *(view for view, wanted in crossed if wanted))))
    own = {field.name: getattr(given, field.name) for field in fields(Options) if hasattr(given, field.name)}
    return Options(
        **own
        | {
            "model_path": given.model_path or models.base_of(given.checkpoint_path),
            "selection": Selection(views, given.categories, given.skip, given.limit),
            "generation": generation,
        }
    )


def generation_of(given: Namespace) -> Generation:
    """How responses are to be drawn. Raises `BadInput` for numbers that make no sense."""
    if not 0 < given.temperature < math.inf or not 0 < given.top_p <= 1:
        raise BadInput("--temperature must be above 0 (--greedy for none), and --top_p above 0 and at most 1")
    from safeeraser.generation.sampling import Generation  # here too

    return Generation(given.greedy, given.temperature, given.top_p, given.max_new_tokens, given.seed)
