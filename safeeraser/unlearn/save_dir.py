"""Check a run's `save_dir`: it may be empty, hold the run to resume, or hold files that must not be touched."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from safeeraser.benchmark.adapters import RUN_FILE, run_of
from safeeraser.benchmark.files import held, read_json
from safeeraser.errors import BadInput
from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.engine import Engine
from safeeraser.unlearn.config.read import read_settings
from safeeraser.unlearn.config.settings import Settings

TRAIN_LOG, PROBE_LOG, MASK_FILE = "train_log.jsonl", "probe.jsonl", "mask.safetensors"
# Settings that a resumed run may change: none decides the result. `find_origin` compares the bases by weights.
_FREE_ON_RESUME = """
allow_other_base dry_run engine gpu_memory hub_model_id hub_private model_family overwrite_dir probe probe_every
push_to_hub report_to resume_from_checkpoint save_dir save_model save_steps save_total_limit tables workers
"""


def find_checkpoint(settings: Settings, engine: Engine) -> str | None:
    """The checkpoint folder to resume from, or None. Raises `BadInput` if the named folder is no checkpoint, or belongs
    to another run, for instance with another method, model or number of processes."""
    wanted = settings.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted == "auto":
        return get_last_checkpoint(settings.save_dir) if settings.save_dir.is_dir() else None
    folder = Path(wanted).resolve()
    if not (folder / "trainer_state.json").is_file():
        raise BadInput(f"resume_from_checkpoint={wanted}: no checkpoint there (it would hold trainer_state.json)")
    if not (earlier := run_of(folder) or run_of(folder.parent)):
        raise BadInput(f"resume_from_checkpoint={wanted}: no {RUN_FILE} in or beside it says which run it belongs to")
    if difference := _difference(settings, engine, earlier):
        raise BadInput(
            f"resume_from_checkpoint={wanted}: belongs to another run, which has another {difference}; "
            "resume with that run's settings, or start anew without resume_from_checkpoint"
        )
    return str(folder)


def check_save_dir(settings: Settings, engine: Engine) -> None:
    """Raise `BadInput` if `save_dir` cannot be written, or holds anything that this run may not resume or replace."""
    folder = settings.save_dir
    _check_writable(folder)
    if not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        return
    record = run_of(folder) if folder.is_dir() else {}
    if "settings" not in record or {"merged", "copied"} & record.keys():
        raise BadInput(
            f"save_dir={folder}: exists and is not a run of this project, so nothing is changed there; name another "
            "folder"
        )
    with held(folder, f"save_dir={folder}", shared=True):
        earlier = read_json(folder / RUN_FILE)
    if _nothing_trained(folder):
        return
    if settings.resume_from_checkpoint:
        if difference := _difference(settings, engine, earlier):
            raise BadInput(
                f"save_dir={folder}: its run has another {difference}; resume with the original setting, or start anew "
                "in another save_dir, or with overwrite_dir=true instead of resume_from_checkpoint"
            )
    elif not settings.overwrite_dir:
        method = earlier["settings"]["forget_loss"]["name"]
        raise BadInput(
            f"save_dir={folder}: holds a run already ({method}); name another folder, resume with "
            "resume_from_checkpoint=auto, or replace it with overwrite_dir=true"
        )


def _check_writable(folder: Path) -> None:
    """Raise `BadInput` if `folder`, or the target of a symlink there, can be neither written to nor made."""
    try:
        folder = folder.resolve()
        with suppress(FileNotFoundError):
            folder.stat()  # raises if the path is too long, or leads through a file or a closed folder
        there = next(path for path in (folder, *folder.parents) if path.exists())
        for name in folder.parts[len(there.parts) :]:
            with suppress(FileNotFoundError):
                (there / name).stat()  # raises if the name is too long
    except OSError as error:
        raise BadInput(f"save_dir={folder}: cannot be made ({error.strerror})") from None
    if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"save_dir={folder}: {there} cannot be written to")


def _nothing_trained(folder: Path) -> bool:
    """Whether the run in `folder` ended before its first optimizer step, so that replacing it loses nothing."""
    log = folder / TRAIN_LOG
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    trained = log.is_file() and log.stat().st_size
    return not trained and left <= {RUN_FILE, "plan.json", MASK_FILE, TRAIN_LOG, PROBE_LOG, "runs"}  # TensorBoard's


def _difference(settings: Settings, engine: Engine, earlier: dict[str, Any]) -> str | None:
    """The first setting, or the engine, that decides the result and differs from `earlier`, a `run.json`; else None."""
    # Where an earlier version lacked a key, it worked as the key's default does.
    before = read_settings(from_keys(earlier["settings"] | {"model_family": settings.model_family.model_dump()}))
    now, then = settings.model_dump(mode="json"), before.model_dump(mode="json")
    for key in (key for key in now if key not in _FREE_ON_RESUME.split()):
        name, old, new = key, then.get(key), now[key]
        while isinstance(old, dict) and isinstance(new, dict) and old != new:
            inner = next(inner for inner in new | old if old.get(inner) != new.get(inner))
            name, old, new = f"{name}.{inner}", old.get(inner), new.get(inner)
        if old != new:
            return f"{name} ({old}, now {new})"
    # A dry run before the launch knows the engine only if `engine` names one.
    if engine.record != earlier["engine"] and not (settings.dry_run and settings.engine is None):
        recorded, running = earlier["engine"], engine.record
        names = (f"{which['name']} with {which['processes']} process(es)" for which in (recorded, running))
        return "engine ({}, now {})".format(*names)
    return None
