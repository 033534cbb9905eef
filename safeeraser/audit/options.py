"""What an audit was asked, and where it leaves what it finds."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safeeraser import model as llava
from safeeraser.benchmark.files import read_json, sha256
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation.sampling import Generation
from safeeraser.infer.checkpoint import training_of
from safeeraser.infer.partial import difference
from safeeraser.infer.requests import Selection

STEPS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class Options:
    """What `audit.py` was asked; its help describes each."""

    checkpoint_path: Path
    model_path: str
    train_file: Path
    val_file: Path
    limit: int | None = 10
    held_out: int = 1
    steps: tuple[int, ...] = STEPS
    relearn_lr: float | None = None
    generation: Generation = field(default_factory=Generation)
    batch_size: int | None = None
    dtype: str = "auto"
    scoring: dict[str, Any] = field(default_factory=dict)  # the rest of `score.options.Options`

    @property
    def folder(self) -> Path:
        """Where the points lie, each in a folder of its own."""
        return self.checkpoint_path / "audit"

    @property
    def card(self) -> Path:
        """What the report reads."""
        return self.checkpoint_path / "audit.json"

    def selection(self, views: tuple[str, ...]) -> Selection:
        """What is asked: records that relearning has not seen, the same ones at every point."""
        return Selection(views, skip=self.held_out, limit=self.limit)

    @property
    def settings(self) -> dict[str, Any]:
        """What the responses and adapters of an audit depend on, as it is compared when it goes on."""
        return {
            "checkpoint_sha256": sha256(llava.adapter_file(self.checkpoint_path)),
            "model_path": self.model_path,
            "train_sha256": sha256(self.train_file),
            "val_sha256": sha256(self.val_file),
            "limit": self.limit,
            "skip": self.held_out,
            "steps": list(self.steps),
            "relearn_lr": self.relearn_lr,
            "dtype": str(llava.choose_dtype(self.dtype)).removeprefix("torch."),
            **asdict(self.generation),
        }

    @property
    def judged_by(self) -> dict[str, Any]:
        """What the verdicts depend on beside the responses."""
        others = {metric: asdict(judge) for metric, judge in self.scoring["judges"].items() if judge}
        kept = {key: self.scoring[key] for key in ("protocol", "max_failed", "extra_body")}
        return {"judge": asdict(self.scoring["judge"]), "judges": others, **kept}

    @property
    def method(self) -> str | None:
        """The method the adapter was trained with, where that is known."""
        return (training_of(self.checkpoint_path) or {}).get("method")


def check(options: Options) -> None:
    """Refuse what no point could be measured with, before the first one is."""
    if options.checkpoint_path.is_file():
        raise BadInput(
            f"--checkpoint_path {options.checkpoint_path}: is a file; 'python -m safeeraser.model convert' makes a "
            "PEFT folder of it, in which the audit has its place"
        )
    adapter = llava.adapter_file(options.checkpoint_path)
    options.selection(("forget",)).records(read_records(options.val_file))
    read_records(options.train_file)
    begun = options.folder / "settings.json"
    if begun.is_file() and (other := difference(read_json(begun), options.settings)):
        raise BadInput(
            f"{options.folder}: the audit of {adapter.name} there was begun with {other}; give the same settings to go "
            "on, or move the folder away to begin anew"
        )
