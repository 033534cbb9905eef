"""Settings and fixtures of all tests: one thread, no access to the hub, no keys of the user, a cache of their own."""

import gc
import os
import signal
import tempfile
from pathlib import Path

import pytest

# Set before torch is loaded: with models this small, several threads wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
# A model name that is no folder is then refused at once, without a request over the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Hide the API keys and addresses of the person who runs the tests.
for variable in [name for name in os.environ if name.startswith("OPENAI_")]:
    del os.environ[variable]

# The tests remember checked pictures in a cache of their own, which is removed at the end. Matplotlib's list of fonts
# stays in the user's cache, because making it takes seconds.
KEPT = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
os.environ.setdefault("MPLCONFIGDIR", str(KEPT / "matplotlib"))
# The older transformers that one test reads folders with stays there too: each machine downloads it once.
os.environ.setdefault("KEPT_FOR_TESTS", str(KEPT / "safeeraser" / "tests"))
CACHE = tempfile.TemporaryDirectory(prefix="safeeraser-cache-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
# DeepSpeed's extensions take a minute to compile. They are kept in .venv, so each environment compiles them once.
os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path(__file__).resolve().parents[1] / ".venv" / "torch_extensions"))

# A shell's background job ignores Ctrl-C, and a job of nohup ignores the end of its terminal. The processes that tests
# start and interrupt would inherit this, so restore the default handlers.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Give each test its tier, keep a file's tests in one worker, and start the slow ones first.

    A test that is marked neither `slow` nor `nightly` is fast. Tests of several processes share the group "engines":
    one worker runs them one after another, so none waits for a lock.
    """
    for item in items:
        if not (item.get_closest_marker("slow") or item.get_closest_marker("nightly")):
            item.add_marker("fast")
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: bool(item.get_closest_marker("fast")))


def pytest_collection_finish():
    """Keep the garbage collector off the objects that are loaded by now: searching them took a tenth of the time."""
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
    """A function that starts a chat server with a script. All its servers stop after the test.

    The clients make almost no pauses. They load no certificates, because no server here has one.
    """
    from chat_server import Server  # late, here and below: the process that hands out tests needs none

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
    """A `python` with its libraries loaded, for tests that would otherwise start a new one: see forks.py."""
    from forks import Forks

    made = Forks(tmp_path_factory.mktemp("forks"))
    yield made
    made.close()


@pytest.fixture
def launch(forks):
    """A function that launches a series of commands in two processes, for tests of the group "engines"."""
    from launches import series

    launched = []

    def begin(*given, **more):
        launched.append(series(forks, *given, **more))
        return launched[-1]

    yield begin
    for each in launched:
        each.kill()
