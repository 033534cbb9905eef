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
from helpers import MODEL, RECORDED

from safeeraser.model import merge


@dataclass(frozen=True)
class Server:
    """Where the server listens, and what a request must call the model: the very words it was started with."""

    url: str
    model: str


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The tiny model with the recorded checkpoint, served until the session ends."""
    folder = tmp_path_factory.mktemp("served")
    merge(RECORDED / "inference" / "checkpoint.pt", folder / "model", model_path=str(MODEL))
    with served(folder / "model", folder / "log.txt") as server:
        yield server


@contextmanager
def served(model: Path, log: Path) -> Iterator[Server]:
    """A model's folder behind `transformers serve`, what that says in `log`."""
    port = free_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--host", "127.0.0.1", "--port", port]
    with log.open("w") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", process, log)
        yield Server(f"http://127.0.0.1:{port}/v1", str(model))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_healthy(url: str, process: subprocess.Popen, log: Path, seconds: float = 180) -> None:
    """Returns once `url` answers; the model is loaded by then. Fails with the server's own words."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"no server at {url}: {log.read_text()[-2000:]}")
