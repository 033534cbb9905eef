"""What an audit was asked."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safeeraser import model as models
from safeeraser.audit.protocol import Protocol
from safeeraser.audit.relearn import Data
from safeeraser.benchmark.files import sha256, trained_settings
from safeeraser.generation.sampling import Generation
from safeeraser.infer.options import BATCH_SIZE
from safeeraser.infer.requests import Selection
from safeeraser.judge.judging import Judging
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
    protocol: Protocol
    generation: Generation
    judging: Judging
    controls: Path
    tuned: Path | None = None
    never_knew: str | None = None
    samples: int = 1
    max_failed: float = 0.01
    max_blank: float = 0.01
    batch_size: int | None = BATCH_SIZE
    dtype: str = "auto"
    decode: str = "graph"
    allow_other_base: bool = False

    @property
    def card(self) -> Path:
        """What the report reads."""
        return self.checkpoint_path / "audit.json"

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """The settings that the adapter was trained with, where its folder tells."""
        return trained_settings(self.checkpoint_path)

    @property
    def split(self) -> str | list[str]:
        """The categories that the adapter was trained on: nothing was to be forgotten of the others."""
        trained = self.trained or {}
        # One's own data have categories of their own, which the benchmark's records are not of.
        own = trained.get("data", {}).get("name", "safeeraser") != "safeeraser"
        return "all" if own else trained.get("split", "all")

    @property
    def data(self) -> Data:
        """What relearning can be on."""
        return Data(self.train_file, self.val_file, self.held_out, self.split)

    def selection(self, views: tuple[str, ...], samples: int | None = None) -> Selection:
        """What is asked: records that relearning has not seen, drawn from all keywords, the same ones at every point.

        Args:
            samples: of each question of `forget`, if not as many as everywhere.
        """
        categories = () if self.split == "all" else tuple(self.split)
        seed, count = self.generation.seed, samples or self.samples
        return Selection(views, categories, self.held_out, self.limit, by_keyword=seed, samples=count)

    def score_options(self, folder: Path, **more: Any) -> ScoreOptions:
        """What `score` is told of a point whose responses lie in `folder`."""
        judged = folder / self.judged_key
        return ScoreOptions(
            input_file=folder / "predictions_val.json",
            file_refer=self.val_file,
            output_file_rr=judged / "verdicts_val.json",
            summary=judged / "summary_val.json",
            split="val",
            judging=self.judging,
            max_failed=self.max_failed,
            max_blank=self.max_blank,
            overwrite=True,  # of what lies in the audit's own folder
            **more,
        )

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What every response of an audit depends on beside the model, as it is compared when it goes on."""
        return {
            "train_sha256": sha256(self.train_file),
            "val_sha256": sha256(self.val_file),
            "split": self.split,
            "limit": self.limit,
            "skip": self.held_out,
            "samples": self.samples,
            "relearning": self.protocol.told,
            "dtype": str(models.choose_dtype(self.dtype)).removeprefix("torch."),
            **asdict(self.generation),
        }

    @cached_property
    def judged_key(self) -> str:
        """What tells these judges and their rules from others."""
        told = json.dumps(self.judged_by, sort_keys=True, default=str)
        return f"judged-{hashlib.sha256(told.encode()).hexdigest()[:10]}"

    @property
    def judged_by(self) -> dict[str, Any]:
        """What the verdicts depend on beside the responses."""
        bounds = {"max_failed": self.max_failed, "max_blank": self.max_blank}
        return self.judging.told | bounds
