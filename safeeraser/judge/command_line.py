"""What commands that have responses judged ask about judges, and what becomes of the words."""

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safeeraser.arguments import count, json_object
from safeeraser.benchmark.files import read_text
from safeeraser.benchmark.metrics import ASKED
from safeeraser.errors import BadInput
from safeeraser.judge.judges import JUDGES, Choice, Judging
from safeeraser.keys import GIVEN

FORMS = "each may be NAME, NAME:MODEL, NAME@ADDRESS or NAME:MODEL@ADDRESS"


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
    for metric in ASKED:
        add(f"--{metric}_judge", type=Choice.parse, metavar="JUDGE", help=f"another judge for {metric}")


def calls(add: Callable) -> None:
    """How a judge behind a server is asked."""
    add(
        "--api_key",
        help="key for the server (default: OPENAI_API_KEY of the environment; another server: KEY_FOR_HOST)",
    )
    add("--api_key_file", type=Path, metavar="FILE", help="a file that holds the key and nothing else")
    add("--concurrency", type=count, default=32, help="calls at a time (default: %(default)s)")
    add("--requests_per_minute", type=count, metavar="N", help="calls a minute at most")
    add(
        "--judge_max_tokens",
        type=count,
        metavar="N",
        help="tokens of a judge's reply; one that reasons first wants thousands (default: 64, guards by their file)",
    )
    add(
        "--extra_body",
        type=json_object,
        default={},
        metavar="JSON",
        help="parameters of each call; null leaves one out: '{\"temperature\": null}'. What the model does not take of "
        "response_format, max_tokens and temperature is found out by the first call",
    )
    add(
        "--store",
        type=Path,
        default=Path("results/verdicts.jsonl"),
        help="every reply, for all runs (default: %(default)s)",
    )


def chosen(given: dict[str, Any], **more: Any) -> Judging:
    """Who judges and how, by the parsed words of `judges` and `calls` and whatever others `Judging` has.

    Raises:
        BadInput: a model or an address was given for a judge that is no model, or a key twice.
    """
    given = dict(given)
    given["api_key"] = given["api_key"] or os.environ.get(GIVEN)
    if file := given.pop("api_key_file"):
        if given["api_key"]:
            raise BadInput("--api_key and --api_key_file: give one of them")
        given["api_key"] = read_text(file).strip()
        if not given["api_key"]:
            raise BadInput(f"--api_key_file {file}: is empty")
    judge, model, base_url = given["judge"], given.pop("judge_model"), given.pop("base_url")
    if (model or base_url) and not judge.served:
        raise BadInput(f"--judge {judge.name} is no model: --judge_model and --base_url have no meaning for it")
    given["judge"] = replace(judge, model=model or judge.model, base_url=base_url or judge.base_url)
    given["judges"] = {metric: given.pop(f"{metric}_judge") for metric in ASKED}
    given["max_tokens"] = given.pop("judge_max_tokens")
    if own := {"messages", "model", "stream"} & given["extra_body"].keys():
        raise BadInput(f"--extra_body: {min(own)} is this program's to set (the model: --judge_model)")
    known = {field.name for field in fields(Judging)}
    return Judging(**{key: value for key, value in given.items() if key in known}, **more)


def hide_key() -> None:
    """Start again with the key in the environment: what stands on a command line is in everybody's process list."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--api_key", nargs="?")
    given, rest = parser.parse_known_args()
    if given.api_key is not None:
        environment = os.environ | {GIVEN: given.api_key}
        os.execve(sys.executable, [sys.executable, sys.argv[0], *rest], environment)
