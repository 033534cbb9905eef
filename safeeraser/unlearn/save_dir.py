"""What a run finds in its `save_dir`: nothing, itself to go on with, or something that it must not touch."""

from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from safeeraser.benchmark.files import RUN_FILE, read_json
from safeeraser.errors import BadInput
from safeeraser.unlearn.settings import Settings

# What a resumed run may change: nothing that decides the result.
FREE_ON_RESUME = {"resume_from_checkpoint", "overwrite_dir", "workers", "save_steps", "save_total_limit", "save_model"}
FREE_ON_RESUME |= {"save_dir", "report_to", "dry_run", "tables", "model_family", "engine"}


def find_checkpoint(settings: Settings) -> str | None:
    """The folder to resume from, if any. Raises `BadInput` if the one named is no checkpoint."""
    wanted = settings.resume_from_checkpoint
    if wanted is None:
        return None
    if wanted == "auto":
        return get_last_checkpoint(settings.save_dir) if settings.save_dir.is_dir() else None
    if not (Path(wanted) / "trainer_state.json").is_file():
        raise BadInput(f"resume_from_checkpoint={wanted}: no checkpoint there (it would hold trainer_state.json)")
    return wanted


def check_save_dir(settings: Settings, checkpoint: str | None) -> None:
    """Refuse a `save_dir` that holds something else than what this run may continue or was told to replace."""
    folder = settings.save_dir
    if not folder.exists() or (folder.is_dir() and all(path.name.startswith(".") for path in folder.iterdir())):
        return
    if not (folder / RUN_FILE).is_file():
        raise BadInput(f"save_dir={folder}: exists and is no run of this project; nothing there is touched")
    earlier = read_json(folder / RUN_FILE)["settings"]
    if settings.resume_from_checkpoint:
        now = settings.model_dump(mode="json")
        for key in (key for key in now if key not in FREE_ON_RESUME):
            if earlier.get(key) != now[key]:
                told = "" if isinstance(now[key], dict) else f" ({earlier.get(key)}, now {now[key]})"
                raise BadInput(f"save_dir={folder}: its run has another {key}{told}; resume it as it was started")
    elif not settings.overwrite_dir:
        raise BadInput(
            f"save_dir={folder}: holds another run ({earlier['forget_loss']['name']}); name another folder, go on with "
            "resume_from_checkpoint=auto, or replace it with overwrite_dir=true"
        )
