"""What commands that have responses judged ask about judges, and what becomes of the words."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safeeraser.arguments import count, json_object, one_of, share
from safeeraser.errors import BadInput
from safeeraser.judge.judges import JUDGES, SERVED, Choice
from safeeraser.judge.queries import METRICS
from safeeraser.score.options import PROTOCOLS

FORMS = "each may be NAME, NAME:MODEL, NAME@ADDRESS or NAME:MODEL@ADDRESS"


def statistics(add: Callable) -> None:
    """How verdicts become figures."""
    add(
        "--protocol",
        type=one_of("protocol", PROTOCOLS),
        default="official",
        help="official: the release's statistics; corrected: failed and unreadable replies left out, records paired by "
        "picture, GPT-Eval's two texts in their places (default: %(default)s)",
    )
    add(
        "--max_failed",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="of a metric's replies that may have failed or be unreadable; past it the figure is withheld (default: "
        "%(default)s)",
    )


def judges(add: Callable) -> None:
    """Who judges; `chosen` reads it."""
    add(
        "--judge",
        type=Choice.parse,
        default=Choice("openai"),
        help=f"{', '.join(JUDGES)} (default: openai, model gpt-4o)",
    )
    add("--judge_model", help="the model that --judge asks")
    add("--base_url", help="the address of the server that --judge asks (default: OpenAI's)")
    for metric in METRICS:
        add(f"--{metric}_judge", type=Choice.parse, metavar="JUDGE", help=f"another judge for {metric}")


def calls(add: Callable) -> None:
    """How a judge behind a server is asked."""
    add("--api_key", help="key for the server (default: the environment's OPENAI_API_KEY)")
    add("--concurrency", type=count, default=32, help="calls at a time (default: %(default)s)")
    add("--requests_per_minute", type=count, metavar="N", help="calls a minute at most")
    add(
        "--extra_body",
        type=json_object,
        default={},
        metavar="JSON",
        help='parameters of each call; null leaves one out: \'{"max_tokens": null, "temperature": null}\'',
    )
    add(
        "--store",
        type=Path,
        default=Path("results/verdicts.jsonl"),
        help="every reply, for all runs (default: %(default)s)",
    )


def chosen(given: dict[str, Any]) -> dict[str, Any]:
    """The parsed words with those of `judges` put together as `Options` takes them: `judge` and `judges`.

    Raises:
        BadInput: a model or an address was given for a judge that is no model.
    """
    given = dict(given)
    judge, model, base_url = given["judge"], given.pop("judge_model"), given.pop("base_url")
    if (model or base_url) and judge.name not in SERVED:
        raise BadInput(f"--judge {judge.name} is no model: --judge_model and --base_url have no meaning for it")
    given["judge"] = replace(judge, model=model or judge.model, base_url=base_url or judge.base_url)
    given["judges"] = {metric: given.pop(f"{metric}_judge") for metric in METRICS}
    return given


def hide_key() -> None:
    """Start again with the key in the environment: what stands on a command line is in everybody's process list."""
    for place, word in enumerate(sys.argv):
        if word.startswith("--api_key="):
            key, rest = word.partition("=")[2], sys.argv[:place] + sys.argv[place + 1 :]
        elif word == "--api_key" and place + 1 < len(sys.argv):
            key, rest = sys.argv[place + 1], sys.argv[:place] + sys.argv[place + 2 :]
        else:
            continue
        os.execve(sys.executable, [sys.executable, *rest], os.environ | {"OPENAI_API_KEY": key})
