"""A real server that speaks the OpenAI protocol: `transformers serve` on loopback, with a merged tiny model."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest


@contextmanager
def served(model: Path, log: Path) -> Iterator[SimpleNamespace]:
    """A model's folder behind `transformers serve`, which writes `log`: its `url`, and the `model`'s name there."""
    with socket.socket() as probe:  # a port that nobody listens on
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--host", "127.0.0.1"]
    with log.open("w") as output:
        call = [*map(str, command), "--port", url.rpartition(":")[2]]
        process = subprocess.Popen(call, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 300
        while not healthy(url):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"no server at {url}: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield SimpleNamespace(url=f"{url}/v1", model=str(model))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def healthy(url: str) -> bool:
    """Whether the server answers; the model is loaded by then."""
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except OSError:
        return False
