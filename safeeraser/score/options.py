"""What a scoring run was asked, and which of it goes together."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from safeeraser.arguments import one_of, share
from safeeraser.benchmark.files import kept_by_the_system
from safeeraser.benchmark.metrics import SPLITS
from safeeraser.errors import BadInput
from safeeraser.judge.judging import PROTOCOLS, Judging


@dataclass(frozen=True)
class Options:
    """What `eval_all.py` was asked; its help describes each."""

    input_file: Path
    file_refer: Path
    output_file_rr: Path | None = None
    summary: Path | None = None
    judging: Judging = field(default_factory=Judging)
    save_replies: Path | None = None
    max_failed: float = 0.01
    max_blank: float = 0.01
    split: str | None = None
    category: str = "all"
    compare: Path | None = None
    refusals: bool = False
    recovered: bool = False
    overwrite: bool = False
    label_sheet: Path | None = None
    label_n: int = 200
    label_seed: int = 0
    label_metrics: tuple[str, ...] = ()
    agree: Path | None = None
    disagreements: Path | None = None

    @property
    def official(self) -> bool:
        """Whether failed replies stay in the denominators and blank responses out, and records pair by position."""
        return self.judging.official

    @property
    def statistics(self) -> Path | None:
        """Where the release keeps its statistics: beside the verdicts, as .txt; None beside /dev/null and its like."""
        path = self.output_file_rr and self.output_file_rr.with_suffix(".txt")
        return None if path is None or kept_by_the_system(path) else path

    @property
    def sheet(self) -> list[Path]:
        """The label sheet as a table and as a page, if one is asked for."""
        return [self.label_sheet, self.label_sheet.with_suffix(".html")] if self.label_sheet else []


def statistics(add: Callable) -> None:
    """The options that say how verdicts become figures, for every command that has responses judged."""
    add(
        "--protocol",
        type=one_of("protocol", PROTOCOLS),
        default="official",
        help="official: the release's statistics; corrected: replies asked for and read strictly, those without a "
        "verdict left out, blank responses counted as what they are, records paired by picture, GPT-Eval's two texts "
        "in their places (default: %(default)s)",
    )
    add(
        "--max_failed",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="of a metric's replies that may have failed, been declined or be unreadable, or (official) say something "
        "else when read strictly; past it the figure is withheld (default: %(default)s)",
    )
    add(
        "--max_blank",
        type=share,
        default=0.01,
        metavar="SHARE",
        help="of a metric's responses that may be blank where they are left out, as the protocol official leaves them; "
        "past it the figure is withheld (default: %(default)s)",
    )


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
        BadInput: there is none, one is a folder, or one is also another output or an input.
    """
    judging = options.judging
    if not (options.output_file_rr or options.summary or options.sheet or options.agree or judging.dry_run):
        raise BadInput("nothing to write: give --output_file_rr, for the verdicts, or --summary, for the figures alone")
    if options.label_sheet and options.label_sheet.suffix != ".csv":
        raise BadInput(f"--label_sheet {options.label_sheet}: must end in .csv; the page beside it ends in .html")
    if options.disagreements and not options.agree:
        raise BadInput("--disagreements: are those with the labels or the run that --agree names")
    if options.output_file_rr and not options.output_file_rr.name:
        raise BadInput(f"--output_file_rr: '{options.output_file_rr}' names no file")
    named = [options.output_file_rr, options.statistics, options.summary, options.save_replies, judging.store]
    named += [*options.sheet, options.disagreements]
    written = [path for path in named if path]
    given = (options.input_file, options.file_refer, judging.replies, options.compare, options.agree)
    # `realpath`, unlike `resolve`, does not mind links that lead in a circle, which are refused elsewhere.
    taken = {os.path.realpath(path) for path in given if path}
    for path in written:
        place = os.path.realpath(path)
        if place in taken:
            raise BadInput(f"{path}: named twice, as an output and as another file; give each its own name")
        if path.is_file() or not path.exists():  # a device may well be named twice
            taken.add(place)
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name a file")
    return written
