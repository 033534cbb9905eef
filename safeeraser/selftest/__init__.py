"""Does this machine train and answer right? `python -m safeeraser.selftest`; is above the rooms whose commands it
starts and whose parts it measures, on a model of random weights."""

from pathlib import Path

from safeeraser.benchmark.pages import read_keys

_KNOWN = read_keys(Path(__file__).with_name("models.yaml"))
SIZES, FAMILIES = _KNOWN["sizes"], _KNOWN["families"]  # the models that it knows, by name
