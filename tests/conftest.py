"""What holds for every test: one thread, no hub, one working directory a test."""

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest

# Before torch is loaded: on models this small, several threads wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
# A name that is no folder is then refused at once instead of being asked for over the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# No test finds a key or an address of whoever runs it.
for variable in [name for name in os.environ if name.startswith("OPENAI_")]:
    del os.environ[variable]

# What is remembered of pictures between runs is not to outlive the tests, nor to come from before them. Matplotlib's
# list of fonts, which takes seconds to make, stays where it is.
KEPT = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
os.environ.setdefault("MPLCONFIGDIR", str(KEPT / "matplotlib"))
# So does the older transformers that one test reads folders with: it is fetched once a machine.
os.environ.setdefault("KEPT_FOR_TESTS", str(KEPT / "safeeraser" / "tests"))
CACHE = tempfile.TemporaryDirectory(prefix="safeeraser-cache-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
# What DeepSpeed compiles takes a minute: once for each environment, beside which it lies.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(__file__).resolve().parents[1] / ".venv" / "torch_extensions"))

# A shell starts a background job with Ctrl-C ignored, and nohup one with the terminal's end: so would be whatever the
# tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Give each test its tier, keep a file's tests in one worker, and start the slow ones first.

    What is marked neither `slow` nor `nightly` is fast. Tests of several processes share the group "engines", so that
    one worker runs them one after another and none waits on a lock.
    """
    for item in items:
        if not (item.get_closest_marker("slow") or item.get_closest_marker("nightly")):
            item.add_marker("fast")
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: bool(item.get_closest_marker("fast")))


def pytest_collection_finish():
    """Spare the garbage collector what is loaded by now and stays: looking through it took a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(scope="session")
def vlm():
    """The tiny model, loaded once; a test that changes it changes it back."""
    import torch
    from helpers import MODEL

    from safeeraser.model.vlm import VLM

    loaded = VLM.load(str(MODEL), torch.float32)
    loaded.model.eval()
    return loaded


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts servers of chat completions, each with its script, and stops them after the test.

    Their clients make next to no pauses, and read no certificates, since no server here has one.
    """
    from chat_server import Server  # here and below: only now, since the process that shares the tests out needs none

    for name, seconds in {"INITIAL_RETRY_DELAY": 0.002, "MAX_RETRY_DELAY": 0.01}.items():
        monkeypatch.setattr(f"openai._base_client.{name}", seconds)
    for name, seconds in {"PAUSE": 0.1, "GARBAGE_PAUSE": 0.01, "LONGEST_GARBAGE_PAUSE": 0.02}.items():
        monkeypatch.setattr(f"safeeraser.chat.{name}", seconds)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    servers = []

    def start(script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def forks(tmp_path_factory):
    """What stands in for Python where a test would start it anew: see forks.py."""
    from forks import Forks

    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture
def launch(forks):
    """Launches a series of commands in two processes, for tests of the group "engines"."""
    from launches import series

    launched = []

    def begin(*given, **more):
        launched.append(series(forks, *given, **more))
        return launched[-1]

    yield begin
    for each in launched:
        each.kill()
