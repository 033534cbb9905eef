"""The self-test `python -m safeeraser.selftest`: does this machine train and answer correctly? It uses a model of
random weights. It may import from all other subpackages, and no other subpackage imports from it."""

from pathlib import Path

from safeeraser.benchmark.pages import read_keys

_KNOWN = read_keys(Path(__file__).with_name("models.yaml"))
SIZES, FAMILIES = _KNOWN["sizes"], _KNOWN["families"]  # the models that it knows, by name
