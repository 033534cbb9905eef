"""What an audit was asked, and where it leaves what it finds."""

import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safeeraser import model as models
from safeeraser.benchmark.files import read_object, sha256, trained_settings
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation.sampling import Generation
from safeeraser.infer.partial import difference
from safeeraser.infer.requests import Selection
from safeeraser.judge.judges import Judging
from safeeraser.judge.panel import Panel
from safeeraser.score.options import Options as ScoreOptions


@dataclass(frozen=True)
class Options:
    """What `audit.py` was asked; its help describes each."""

    checkpoint_path: Path
    model_path: str
    train_file: Path
    val_file: Path
    limit: int | None
    held_out: int
    steps: tuple[int, ...]
    relearn_lr: float | None
    generation: Generation
    judging: Judging
    max_failed: float = 0.01
    max_blank: float = 0.01
    batch_size: int | None = None
    dtype: str = "auto"
    allow_other_base: bool = False

    @property
    def folder(self) -> Path:
        """Where the points lie, each in a folder of its own."""
        return self.checkpoint_path / "audit"

    @property
    def begun(self) -> Path:
        """Where the settings stand that the audit was begun with."""
        return self.folder / "settings.json"

    @property
    def card(self) -> Path:
        """What the report reads."""
        return self.checkpoint_path / "audit.json"

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """The settings that the adapter was trained with, where its folder tells."""
        return trained_settings(self.checkpoint_path)

    @cached_property
    def base(self) -> dict[str, Any]:
        """The fingerprint of the base model, as far as it lies here."""
        return models.fingerprint(self.model_path, here=True)

    @property
    def split(self) -> str | list[str]:
        """The categories that the adapter was trained on: nothing was to be forgotten of the others."""
        trained = self.trained or {}
        # One's own data have categories of their own, which the benchmark's records are not of.
        own = trained.get("data", {}).get("name", "safeeraser") != "safeeraser"
        return "all" if own else trained.get("split", "all")

    def selection(self, views: tuple[str, ...]) -> Selection:
        """What is asked: records that relearning has not seen, the same ones at every point."""
        categories = () if self.split == "all" else tuple(self.split)
        return Selection(views, categories, skip=self.held_out, limit=self.limit)

    def score_options(self, folder: Path, **more: Any) -> ScoreOptions:
        """What `score` is told of a point whose files lie in `folder`."""
        return ScoreOptions(
            input_file=folder / "predictions_val.json",
            file_refer=self.val_file,
            output_file_rr=folder / "verdicts_val.json",
            summary=folder / "summary_val.json",
            split="val",
            judging=self.judging,
            max_failed=self.max_failed,
            max_blank=self.max_blank,
            overwrite=True,  # of what lies in the audit's own folder
            **more,
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What the responses and adapters of an audit depend on, as it is compared when it goes on."""
        return {
            "checkpoint_sha256": sha256(models.adapter_file(self.checkpoint_path)),
            "model_path": self.model_path,
            "base": self.base["weights"],
            "train_sha256": sha256(self.train_file),
            "val_sha256": sha256(self.val_file),
            "split": self.split,
            "limit": self.limit,
            "skip": self.held_out,
            "steps": list(self.steps),
            "relearn_lr": self.relearn_lr,
            "dtype": str(models.choose_dtype(self.dtype)).removeprefix("torch."),
            **asdict(self.generation),
        }

    @property
    def judged_by(self) -> dict[str, Any]:
        """What the verdicts depend on beside the responses."""
        bounds = {"max_failed": self.max_failed, "max_blank": self.max_blank}
        return self.judging.told | bounds


def check(options: Options, *, dry_run: bool) -> Panel:
    """Refuse what no point could be measured with, before the first one is; returns the judges.

    Args:
        dry_run: whether the judges will not be asked, and so need no key.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            "audit.py: was started by a launcher of several processes; start it once for each GPU instead, as "
            "scripts/audit.bash does, and the processes share the points"
        )
    if options.checkpoint_path.is_file():
        raise BadInput(
            f"--checkpoint_path {options.checkpoint_path}: is a file; 'python -m safeeraser.model convert' makes a "
            "PEFT folder of it, in which the audit has its place"
        )
    models.adapter_file(options.checkpoint_path)
    models.check_base(options.checkpoint_path, options.base, allowed=options.allow_other_base)
    options.selection(("forget",)).records(read_records(options.val_file))
    read_records(options.train_file)
    # Of a point that never came to anything, an empty folder is left.
    begun = options.begun.is_file() and any(options.folder.glob("*/*/*"))
    if begun and (other := difference(read_object(options.begun), options.settings)):
        raise BadInput(
            f"{options.folder}: the audit there was begun with {other}; give the same settings to go on, or move the "
            "folder away to begin anew"
        )
    return Panel(replace(options.judging, dry_run=dry_run))
