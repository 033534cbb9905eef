"""Which key goes to which server: a key belongs to one host, and is sent to no other."""

import ipaddress
import os
import re
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from safeeraser.benchmark.files import read_text
from safeeraser.errors import BadInput

OPENAI = "https://api.openai.com/v1"
OPENAI_KEY = "OPENAI_API_KEY"
GIVEN = "SAFEERASER_API_KEY"  # holds the key of --api_key after it has left the process list
OVER_HTTP = "KEY_OVER_HTTP"  # names the hosts, with commas between, to which a key may go unencrypted
OF_HOST = "KEY_FOR_"  # prefix of the variable for a server of your own, as in KEY_FOR_GPU_8000
NONE = "none"  # a server that needs no key accepts any word, and the client requires one


class ApiKey(NamedTuple):
    """The key that a server is sent. `lacking`: where there is none, what to set if the server requires one."""

    text: str
    lacking: str = ""


def address_of(base_url: str | None) -> str:
    """The address that the client asks."""
    return base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI


def host_of(url: str) -> str:
    """The host in an address, with its port if it names one; empty if the address is invalid."""
    try:
        parts = urlsplit(url)
        return f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or ""
    except ValueError:
        return ""  # the client reports this plainly


def is_openai(url: str) -> bool:
    """Whether an address is OpenAI's own."""
    return f".{host_of(url)}".endswith(f".{host_of(OPENAI)}")


def openai_key(base_url: str | None, *also: str | None) -> list[str]:
    """`[OPENAI_KEY]` if that key may go to `base_url`: to OpenAI, OPENAI_BASE_URL, or `also`; else an empty list."""
    url, others = address_of(base_url), {host_of(address_of(each)) for each in (None, *also)}
    return [OPENAI_KEY] if is_openai(url) or host_of(url) in others else []


def read_key(
    given: str | None, base_url: str | None, *, variables: Sequence[str], who: str, otherwise: str = ""
) -> ApiKey:
    """The key for the server at `base_url`: `given`, or the first of the environment's `variables` that is set.

    A server other than OpenAI's has one more variable, named after its host, and may do without a key. Over plain http
    a key goes only to this machine, and to hosts that the variable `OVER_HTTP` names.

    Raises:
        BadInput: OpenAI's server needs a key and there is none (the message ends with `otherwise`, the alternative to a
            key), or the text cannot be a key.
    """
    url = address_of(base_url)
    names = [*variables, *([] if is_openai(url) else [OF_HOST + re.sub(r"\W", "_", host_of(url)).upper()])]
    key, way = (given or next(filter(None, map(os.environ.get, names)), "")).strip(), f"set {' or '.join(names)}"
    if not key and is_openai(url):
        raise BadInput(
            f"{who} needs a key: {way} (a local server named by --base_url needs none)"
            + (otherwise and f"; {otherwise}")
        )
    if not key:
        return ApiKey(NONE, way if _may_carry_key(url) else f"{way}, and {OVER_HTTP}={urlsplit(url).hostname}")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise BadInput("the API key holds a character that no key has; was more than the key pasted?")
    if not _may_carry_key(url):
        host = urlsplit(url).hostname
        return ApiKey(NONE, f"a key goes there over https only, unless {OVER_HTTP}={host} allows http")
    return ApiKey(key)


def given_key(key: str | None, file: Path | None) -> str | None:
    """The key that a command line gives, as text or in a file. Raises `BadInput` for both at once, or an empty file."""
    key = key or os.environ.get(GIVEN)
    if key and file:
        raise BadInput("--api_key and --api_key_file: give one of them")
    if file and not (key := read_text(file).strip()):
        raise BadInput(f"--api_key_file {file}: is empty")
    return key


def hide_key() -> None:
    """Restart the program with the key in the environment: every user can read a command line in the process list."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--api_key", nargs="?")
    given, rest = parser.parse_known_args()
    if given.api_key is not None:
        environment = os.environ | {GIVEN: given.api_key}
        os.execve(sys.executable, [sys.executable, sys.argv[0], *rest], environment)


def _may_carry_key(url: str) -> bool:
    """Whether a key may go to an address: over https, to this machine, or where `OVER_HTTP` allows it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return True  # nothing is sent to an invalid address
    host, allowed = parts.hostname or "", os.environ.get(OVER_HTTP, "").lower().split(",")
    if parts.scheme != "http" or host == "localhost" or host in map(str.strip, allowed):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
