"""Where a model or an adapter comes from: what the `run.json` in its folder says, and the chain of its parents."""

import logging
from functools import cache
from pathlib import Path
from typing import Any

from safeeraser.benchmark.adapters import adapter_file, run_of, trained_settings
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput

log = logging.getLogger(__name__)


def base_of_run(folder: Path) -> dict[str, Any]:
    """The fingerprint of the base that the adapter in this folder was trained on; empty if its folder is silent."""
    base = run_of(folder).get("base")
    return base if isinstance(base, dict) else {}


def merged_into(model_path: str) -> dict[str, Any] | None:
    """The adapter that was merged into the model in this folder, as `merge` notes it; None if none is known of."""
    return run_of(Path(model_path)).get("merged")


def check_base(adapter: Path, base: dict[str, Any], *, allowed: bool, answer: str = "--allow_other_base") -> None:
    """Refuse an adapter or a checkpoint that was trained on other weights than those of `base`, unless it is `allowed`.

    Args:
        base: the `fingerprint` of the model that it is to sit on.
        answer: what the user says to allow it.

    Raises:
        BadInput: the two differ; or it does not name its base, and another adapter was merged into this one.
    """
    then, takes_it = base_of_run(adapter), f"{answer} takes it all the same"
    if allowed:
        return
    if not then.get("weights"):
        if merged_into(base["model_path"]):
            raise BadInput(f"{adapter}: {base['model_path']} has an adapter merged into it already; {takes_it}")
        _note_unknown(adapter)
    elif base["weights"] not in (None, then["weights"]):
        raise BadInput(f"{adapter}: was trained on {_named(then)}, not on {_named(base)}; {takes_it}")


def _named(base: dict[str, Any]) -> str:
    revision = f"revision {base['revision']}, " if base.get("revision") else ""
    return f"{base.get('model_path')} ({revision}weights {base['weights'][:12]})"


@cache  # said once, however often an audit asks
def _note_unknown(adapter: Path) -> None:
    log.warning("note: %s does not say which base it was trained on", adapter)


def parents(model_path: str, adapter: Path | None = None) -> list[dict[str, Any]]:
    """The runs whose work is in a model, and in an adapter that training is to start from, oldest first.

    Each says how it came in (`merged`, `init_adapter`; `full`: it trained the model whole), its method, split and
    recipe, and by hash its adapter and the base that it was trained on; what is not known is None.
    """
    folder = Path(model_path)
    told, chain = run_of(folder), run_of(folder).get("parents", [])
    if merged := merged_into(model_path):
        chain = [*chain, _parent("merged", folder, merged.get("adapter_sha256"), merged.get("base"))]
    elif "settings" in told:
        chain = [*chain, _parent("full", folder, None, base_of_run(folder).get("weights"))]
    if adapter:
        digest, base = sha256(adapter_file(adapter)), base_of_run(adapter).get("weights")
        # An adapter knows what its base was made of.
        chain = [*run_of(adapter).get("parents", chain), _parent("init_adapter", adapter, digest, base)]
    return chain


def _parent(how: str, folder: Path, adapter_sha256: str | None, base: str | None) -> dict[str, Any]:
    settings = trained_settings(folder) or {}
    names = {key: settings.get(name, {}).get("name") for key, name in (("method", "forget_loss"), ("recipe", "recipe"))}
    return {"how": how, **names, "split": settings.get("split"), "adapter_sha256": adapter_sha256, "base": base}
