"""The options of a scoring run: each field of `Options` is an option of eval_all.py, with its help and its check."""

import os
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safeeraser.arguments import Arguments, add_options, count, one_of, option, options_in, several, share
from safeeraser.benchmark.figures import COLUMNS
from safeeraser.benchmark.files import make_room_for, read_json, read_text
from safeeraser.benchmark.metrics import ASKED, SPLITS
from safeeraser.benchmark.records import UNHARM, keys_like
from safeeraser.errors import BadInput
from safeeraser.judge.judging import FORMS, JudgeWords, Judging, make_judging
from safeeraser.score.labels import LABELLED, MARK

VALIDITY, JUDGES = "how good the judge is", "judges"  # titles of option groups
BOUNDS = {"max_failed", "max_blank"}  # a figure past one is withheld; other commands that judge have them too
STATISTICS = ("stats_asr_rr", "stats_unharmpair")  # the release's names for its two groups of statistics
CHECK = ("check_judge", "min_accuracy")  # options of a check of the judge, not of a scoring run
DEFAULT = " (default: %(default)s)"
SHARE: dict[str, Any] = {"type": share, "metavar": "SHARE"}


@dataclass(frozen=True)
class Options:
    """The options that `eval_all.py` was given."""

    # The first two are None in a check of the judge, which has cases of its own.
    input_file: Path = option(None, help="the predictions: the data file's list with the responses in it")
    file_refer: Path = option(None, help="the data file the predictions were made on; its texts are the reference")
    output_file_rr: Path | None = option(None, help="where the verdicts go; the statistics go beside it as .txt")
    summary: Path | None = option(
        None, help="where the figures go, for the report, and next to it as a table; this or --output_file_rr is needed"
    )
    overwrite: bool = option(False, help="replace files that this command did not write, or wrote by other judges")
    split: str | None = option(
        None, type=one_of("split", SPLITS), help="train or val (default: by the name of --file_refer)"
    )
    category: str = option("all", help="score one category alone" + DEFAULT)
    refusals: bool = option(
        False,
        help="also the share of refusals in each view that was asked: harmful, benign or no picture, with a harmful or "
        "harmless question",
    )
    recovered: bool = option(
        False,
        help="also how much of the vanilla model's answers is in the responses to harmful questions (ROUGE-L recall)",
    )
    compare: Path | None = option(
        None, metavar="SUMMARY", help="another run's summary: differences on the same requests"
    )
    max_failed: float = option(
        0.01,
        **SHARE,
        help="the share of a metric's replies that may fail, be declined, be unreadable or (official) say something "
        "else when read strictly; past it the figure is withheld" + DEFAULT,
    )
    max_blank: float = option(
        0.01,
        **SHARE,
        help="of a metric's responses that may be blank where they are left out, as the protocol official leaves them; "
        "past it the figure is withheld" + DEFAULT,
    )
    check_judge: bool = option(
        False,
        group=VALIDITY,
        help="instead of scoring, ask the judge about shipped cases of known truth; exit code 3 where it falls short",
    )
    min_accuracy: float = option(
        0.9, **SHARE, group=VALIDITY, help="of the cases of each metric, that must be right in --check_judge" + DEFAULT
    )
    label_sheet: Path | None = option(
        None, metavar="FILE", group=VALIDITY, help="draw responses for people to label: a .csv, a page beside it"
    )
    label_n: int = option(200, type=count, metavar="N", group=VALIDITY, help="responses to draw" + DEFAULT)
    label_seed: int = option(0, metavar="SEED", group=VALIDITY, help="seed of the draw" + DEFAULT)
    label_metrics: tuple[str, ...] = option(
        (), type=several("metric", LABELLED), group=VALIDITY, help="draw for these metrics alone, with commas between"
    )
    agree: Path | None = option(
        None,
        metavar="LABELS",
        group=VALIDITY,
        help="how far the judge agrees with a sheet's labels or another run (its folder, summary or verdicts), and "
        "rates corrected for the judge's errors",
    )
    disagreements: Path | None = option(
        None, metavar="FILE", group=VALIDITY, help="a page of the responses on which judge and --agree differ, masked"
    )
    save_replies: Path | None = option(None, group=JUDGES, help="record the raw replies here, for the judge replay")
    judging: Judging = field(default_factory=Judging)

    @property
    def statistics(self) -> Path | None:
        """The file of the release's statistics: next to the verdicts, as .txt."""
        return self.output_file_rr and self.output_file_rr.with_suffix(".txt")

    @property
    def table(self) -> Path | None:
        """The file of this run's rows of the table of figures: next to the summary, as .figures.csv."""
        return self.summary and self.summary.with_suffix(".figures.csv")

    @property
    def sheet(self) -> list[Path]:
        """The files of the label sheet, a table and an HTML page; empty if none is asked for."""
        return [self.label_sheet, self.label_sheet.with_suffix(".html")] if self.label_sheet else []

    @property
    def outputs(self) -> list[Path]:
        """The files this run writes."""
        named = (self.output_file_rr, self.statistics, self.summary, self.table, self.save_replies, self.disagreements)
        return [*filter(None, named), *self.sheet]


def arguments(description: str | None = None) -> Arguments:
    """The command line of eval_all.py: the fields of `Options`, and the options of judging."""
    parser = Arguments(description=description)
    add_options(parser, Options, JudgeWords, Judging, says={VALIDITY: "docs/guides/score-and-judge.md", JUDGES: FORMS})
    return parser


def options_of(given: dict[str, Any]) -> Options:
    """The parsed options, checked, as `Options`. Raises `BadInput` where options are missing or contradictory."""
    options = Options(judging=make_judging(given, data=given["file_refer"]), **options_in(Options, given))
    if options.check_judge:
        known = [each for each in fields(Options) if each.name in given and each.name not in CHECK]
        if named := [each.name for each in known if given[each.name] != each.default]:
            raise BadInput(f"--check_judge has its own cases: leave out --{named[0]}")
        if unable := {choice.name for choice in options.judging.choices.values()} & {"replay", "truth"}:
            raise BadInput(f"--check_judge: the judge {min(unable)} knows the responses of a run alone; name another")
        return options
    for key in ("input_file", "file_refer"):
        if not given[key]:
            raise BadInput(f"--{key} is missing (see --help)")
    # --split, or else the name of --file_refer, gives the split that is scored; only a summary requires it.
    splits = [split for split in SPLITS if re.search(rf"(?<![a-z]){split}(?![a-z])", options.file_refer.stem.lower())]
    if options.summary and not options.split and len(splits) != 1:
        raise BadInput(f"{options.file_refer}: train or val is not in the name; give --split train or --split val")
    check_names(options)
    return replace(options, split=options.split or (splits[0] if len(splits) == 1 else None))


def check_names(options: Options) -> None:
    """Raise `BadInput` if there is no output, or an output is a folder, another output or an input."""
    judging = options.judging
    if not (options.output_file_rr or options.summary or options.sheet or options.agree or judging.dry_run):
        raise BadInput("nothing to write: give --output_file_rr, for the verdicts, or --summary, for the figures alone")
    if options.label_sheet and options.label_sheet.suffix != ".csv":
        raise BadInput(f"--label_sheet {options.label_sheet}: must end in .csv; the page beside it ends in .html")
    if options.disagreements and not options.agree:
        raise BadInput("--disagreements: requires --agree, with labels or another run")
    if options.output_file_rr and not options.output_file_rr.name:
        raise BadInput(f"--output_file_rr: '{options.output_file_rr}' names no file")
    given = (options.input_file, options.file_refer, judging.replies, options.compare, options.agree)
    # `realpath`, unlike `resolve`, accepts circular symlinks, which are refused elsewhere.
    taken = {os.path.realpath(path) for path in given if path}
    for path in (*options.outputs, judging.store):
        place = os.path.realpath(path)
        if place in taken:
            raise BadInput(f"{path}: named twice, as an output and as another file; give each its own name")
        taken.add(place)
        if path.is_dir():
            raise BadInput(f"{path}: is a folder; name a file")


def check_outputs(options: Options, judges: dict[str, str]) -> None:
    """Raise `BadInput` if an output cannot be written. Without --overwrite, also if it would replace a label sheet, any
    file that no scoring run wrote, or a summary of another protocol or of other `judges`."""
    for path in options.outputs if not options.overwrite else ():
        if not path.is_file() or not path.stat().st_size:
            continue
        if path in options.sheet:
            raise BadInput(f"{path}: exists and may hold labels; --overwrite replaces it")
        try:
            there: Any = read_text(path) if path in (options.disagreements, options.table) else read_json(path)
        except BadInput:
            there = None
        if not _is_ours(there):
            raise BadInput(f"{path}: exists, and no earlier run of this command wrote it; --overwrite replaces it")
        if path == options.summary:
            # Verdicts of the earlier judges might stay next to figures of the new ones, and nothing would show it.
            figures = there if isinstance(there, dict) else {}
            before = {name: (figures.get(metric) or {}).get("judge") for name, metric in ASKED.items()}
            before["protocol"] = figures.get("protocol")
            today = {name: judges.get(name) for name in ASKED} | {"protocol": options.judging.protocol}
            if differs := [name for name in today if before[name] != today[name]]:
                made, asked = (", ".join(f"{name}={words[name]}" for name in differs) for words in (before, today))
                what = f"{path}: exists, made with {made}, now {asked}"
                raise BadInput(f"{what}; name another file, or --overwrite replaces it")
    for path in options.outputs:
        make_room_for(path)


def _is_ours(value: Any) -> bool:
    """Whether `value` is a summary, statistics, verdicts, replies, or the text of a page or of a table of figures."""
    if isinstance(value, str):
        return MARK in value or value.startswith(",".join(COLUMNS))
    if isinstance(value, dict):
        return {"protocol", "asr", "sarr"} <= value.keys() or set(STATISTICS) == value.keys()
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return False
    items = (entry[key] for entry in value for key in keys_like(UNHARM, entry))
    verdicts = any(isinstance(item, dict) and "rougeL" in item for item in items)
    return verdicts or all({"metric", "record", "reply"} <= entry.keys() for entry in value)
