"""Reading pages of settings. One of config/ may name those that it builds on under `defaults`, as everywhere there."""

from pathlib import Path
from typing import Any

import yaml

from safeeraser.benchmark.files import read_text
from safeeraser.errors import BadInput, nearest


def read_keys(file: Path) -> dict[str, Any]:
    """The keys of a YAML file. Raises `BadInput` if it cannot be read, is not YAML, or holds no keys."""
    try:
        keys: Any = yaml.safe_load(read_text(file))
    except yaml.YAMLError as error:
        raise BadInput(f"{file}: not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(keys, dict):
        raise BadInput(f"{file}: holds no keys")
    return keys


def read_page(file: Path, group: Path) -> dict[str, Any]:
    """A page as it composes: its keys, on those of the pages in the folder `group` that it builds on.

    Raises:
        BadInput: one is missing, or no page.
    """
    page = read_keys(file)
    for other in page.pop("defaults", []):
        if other == "_self_":
            continue
        if not (base := group / f"{other}.yaml").is_file():
            known = sorted(each.stem for each in group.glob("*.yaml"))
            raise BadInput(f"{file}: defaults: no page '{other}'; {nearest(str(other), known)}")
        page = read_page(base, group) | page
    return page
