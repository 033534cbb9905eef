"""Which models the self-test can make, by their numbers: LLaVA-1.5's sizes, and small ones of other families.

Without torch, which a command line need not load to name them.
"""

from pathlib import Path
from typing import Any

from safeeraser.benchmark.pages import read_keys

_KNOWN: dict[str, dict[str, dict[str, Any]]] = read_keys(Path(__file__).with_name("models.yaml"))
SIZES, FAMILIES = _KNOWN["sizes"], _KNOWN["families"]
