"""A real server that speaks the OpenAI protocol: `transformers serve` on loopback, with a merged tiny model."""

import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Server:
    """Where the server listens, and what a request must call the model: the very words it was started with."""

    url: str
    model: str


@contextmanager
def served(model: Path, log: Path) -> Iterator[Server]:
    """A model's folder behind `transformers serve`, what that says in `log`; families are served so too."""
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--host", "127.0.0.1"]
    with log.open("w") as output:
        call = [*map(str, command), "--port", url.rpartition(":")[2]]
        process = subprocess.Popen(call, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(f"{url}/health", process, log)
        yield Server(f"{url}/v1", str(model))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until_healthy(url: str, process: subprocess.Popen, log: Path, seconds: float = 300) -> None:
    """Returns once `url` answers; the model is loaded by then. Fails with the server's own words."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"no server at {url}: {log.read_text()[-2000:]}")
