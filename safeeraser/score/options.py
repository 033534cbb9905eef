"""What a scoring run was asked, and which of it goes together."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import kept_by_the_system
from safeeraser.errors import BadInput
from safeeraser.judge.costs import Price
from safeeraser.judge.judges import Choice

PROTOCOLS = ("official", "corrected")
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Options:
    """What `eval_all.py` was asked; its help describes each."""

    input_file: Path
    file_refer: Path
    output_file_rr: Path
    summary: Path | None = None
    judge: Choice = field(default_factory=lambda: Choice("openai"))
    judges: dict[str, Choice | None] = field(default_factory=dict)  # by metric, where it is another one
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 32
    requests_per_minute: int | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    store: Path = Path("results/verdicts.jsonl")
    price: Price | None = None
    dry_run: bool = False
    batch: bool = False
    replies: Path | None = None
    save_replies: Path | None = None
    protocol: str = "official"
    max_failed: float = 0.01
    split: str | None = None
    category: str = "all"
    compare: Path | None = None
    refusals: bool = False
    recovered: bool = False

    @property
    def official(self) -> bool:
        """Whether failed replies stay in the denominators, records are paired by position, and texts swapped."""
        return self.protocol == "official"

    @property
    def price_share(self) -> float:
        """What of the list price is paid."""
        return 0.5 if self.batch else 1.0

    @property
    def statistics(self) -> Path | None:
        """Where the release keeps its statistics: beside the verdicts, as .txt; None beside /dev/null and its like."""
        path = self.output_file_rr.with_suffix(".txt")
        return None if kept_by_the_system(path) else path


def read_split(options: Options) -> str | None:
    """Which split is scored: said, or told by the reference's name. Only the summary needs to know."""
    told = [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", options.file_refer.stem.lower())]
    if options.split or len(told) == 1:
        return options.split or told[0]
    if options.summary:
        raise BadInput(f"{options.file_refer}: the name tells neither train nor val; give --split train or --split val")
    return None


def outputs_of(options: Options) -> list[Path]:
    """The files this run writes or adds to.

    Raises:
        BadInput: one is a folder, is also another output or an input, or is to be read again and cannot be.
    """
    if not options.output_file_rr.name:
        raise BadInput(f"--output_file_rr: '{options.output_file_rr}' names no file")
    named = (options.output_file_rr, options.statistics, options.summary, options.save_replies, options.store)
    written = [path for path in named if path]
    given = (options.input_file, options.file_refer, options.replies, options.compare)
    taken = {path.resolve() for path in given if path}
    for path in written:
        if path.resolve() in taken:
            raise BadInput(f"{path}: named twice, as an output and as another file; give each its own name")
        taken.add(path.resolve())
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name a file")
    if options.compare and options.output_file_rr.exists() and not options.output_file_rr.is_file():
        raise BadInput(f"--output_file_rr {options.output_file_rr}: --compare reads the verdicts again; name a file")
    return written
