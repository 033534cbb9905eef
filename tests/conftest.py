"""What holds for every test: one thread, no hub, one working directory a test."""

import os
import signal

import pytest
from chat_server import Server

# Before torch is loaded: on models this small, several threads wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
# A name that is no folder is then refused at once instead of being asked for over the network.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# A shell starts a background job with Ctrl-C ignored, and so would be whatever the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def serve():
    """Starts servers of chat completions, each with its script, and stops them after the test."""
    servers = []

    def start(script):
        servers.append(Server(script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
