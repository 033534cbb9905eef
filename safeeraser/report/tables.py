"""Tables of the methods: the paper's table, and the tables that accompany it.

`rank` and `headline` say which methods forget, which over-forget, and at what cost: as an order, and in words.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from safeeraser.benchmark.conclusions import spell
from safeeraser.benchmark.figures import Row, pick
from safeeraser.benchmark.files import read_json
from safeeraser.benchmark.metrics import COLUMNS, METRICS
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.benchmark.responses import VIEWS
from safeeraser.report.read import CONCEPT_COLUMNS, VIEW_COLUMNS, Run
from safeeraser.report.sources import agreements, list_some
from safeeraser.report.writing import Line, Table, pivot

RATES = [key for key, metric in METRICS.items() if metric.asked and metric.rate]  # rates that a judge decides
TITLES = {key: column.title for key, column in COLUMNS.items()}
BY_VIEW = {  # a metric measured in every view -> title of its table, definition, why a figure may be missing
    "blank": ("Blank responses, %", "", "the summary does not tell"),
    "wrong": ("Wrong responses, %", "Neither the right answer nor a refusal. ", "the judge did not know the answers"),
}
UNTOUCHED = "vanilla"
HALF = 0.5  # bounds: this part of the untouched model's ASR (of 100% if unknown), and this SARR
# The columns of metrics that are measured on the retain view, or on other data.
_UTILITIES = [key for key, column in COLUMNS.items() if METRICS[column.metric].view in ("retain", "")]
# The groups in their order, with the words of `headline` for one method and for several.
FORGETS, OVER, KEEPS, OPEN = "forgets", "over-forgets", "keeps", "open"
WORDS = {
    FORGETS: ("forgets and answers on benign pictures", "forget and answer on benign pictures"),
    OVER: ("forgets and over-forgets", "forget and over-forget"),
    KEEPS: ("does not forget", "do not forget"),
}


def paper_table(lines: list[Line], runs: list[Run]) -> Table:
    """The paper's table of the methods; `runs` are all their runs."""
    caption = (
        "Per cent, with 95% intervals where known. Efficacy on the training questions, all else on all_val. "
        "↓: lower is better. –: not measured."
    )
    remarks = []
    if any(line.seeds for line in lines):
        remarks.append("Of several seeds: their mean, with an interval over seeds and pictures")
    if notes := [note for run in runs for note in agreements(run, labelled=True)]:
        remarks.append(f"†: corrected for the judge's errors, as labelled responses show them ({'; '.join(notes)})")
    if notes := [note for run in runs for note in agreements(run, labelled=False)]:
        remarks.append(f"Two judges on the same responses, neither of which is the truth ({'; '.join(notes)})")
    return Table("runs", "Results", caption, TITLES, lines, remarks=remarks)


def seeds_table(lines: list[Line]) -> Table | None:
    """The table of the single seeds, one line each; None if no line has several seeds."""
    seeds = [seed for line in lines for seed in line.seeds]
    return Table("seeds", "Each seed", "Per cent, with 95% intervals over pictures.", TITLES, seeds) if seeds else None


def published_table() -> Table:
    """The published figures in the same columns."""
    file = read_json(Path(__file__).parent / "published.json")
    lines = []
    for row in file["rows"]:
        figures = zip(file["columns"], row["values"], strict=True)
        cells = {key: Row(metric=key, value=number / 100) for key, number in figures}
        lines.append(Line(row["name"], cells, published=True))
    caption = f"Per cent, on the full benchmark with GPT-4o as the judge. Source: {file['source']}."
    return Table("published", "Published figures", caption, TITLES, lines)


def view_columns(metric: str, lines: list[Line]) -> dict[str, str]:
    """Column titles of a metric that is measured by view: `train`, and each view that some line has a figure for.

    ASR and RR do not show how many responses are blank, because a blank response is no refusal. So `blank` has columns
    in any case for the views of the paper's metrics.
    """
    usual = [each.view for each in METRICS.values() if each.view] if metric == "blank" else []
    views, columns = [*usual, *VIEWS], VIEW_COLUMNS[metric]
    known = {key for line in lines for key in line.cells if key in columns}
    known |= {key for key, column in columns.items() if column.view in usual or (known and column.split == "train")}
    keys = sorted(known, key=lambda key: (columns[key].split != "train", views.index(columns[key].view)))
    return {key: columns[key].title for key in keys}


def view_table(metric: str, lines: list[Line]) -> Table | None:
    """The table of a metric that is measured in every view; None if no line has a figure of the metric."""
    if not any(line.cells.keys() & VIEW_COLUMNS[metric] for line in lines):
        return None
    title, what, absent = BY_VIEW[metric]
    caption = f"{what}Per cent of the responses that are there, by view, on all_val but for the first column. "
    return Table(metric, title, f"{caption}–: {absent}.", view_columns(metric, lines), lines)


def concept_table(lines: list[Line]) -> Table | None:
    """The rates on concepts that training showed and on held-out ones; None if no line has such rates."""
    if not any(line.cells.keys() & CONCEPT_COLUMNS for line in lines):
        return None
    caption = (
        "Per cent, with 95% intervals, on all_val. Shown: records whose keyword is in the training file, too, with "
        "other pictures. Held-out: those whose keyword is not."
    )
    columns = {key: column.title for key, column in CONCEPT_COLUMNS.items()}
    return Table("concepts", "Concepts shown in training, and held-out ones", caption, columns, lines)


# The tables that follow the paper's. Each function makes one from the methods' lines, or None if nothing is in it.
TABLES: tuple[Callable[[list[Line]], Table | None], ...] = (
    concept_table,
    seeds_table,
    partial(view_table, "blank"),
    partial(view_table, "wrong"),
)


def task_table(runs: Sequence[Run]) -> Table | None:
    """Specificity by benchmark: one line per run, and one column per benchmark, metric and split.

    None if no run's Specificity is made of benchmarks.
    """
    lines, remarks = [], []
    measured = [(run.title, of) for run in runs if (of := run.specificity) and (of.tasks or of.missing)]
    for title, specificity in measured:
        cells: dict[str, Row] = {}
        for name, task in specificity.tasks.items():
            head = f"{name}\n{', '.join(filter(None, (task.metric, task.split)))}"
            error = "" if task.standard_error is None else f" ± {100 * task.standard_error:.1f}"
            cells[head] = Row(metric=name, value=task.value, text_instead=f"{100 * task.value:.1f}{error}")
        lines.append(Line(title, cells))
        said = [f"{name}: no figure: {reason}" for name, reason in specificity.missing.items()]
        said += [f"{stand_in} stands for {name}" for name, stand_in in specificity.replaced.items()]
        said += [f"the first {specificity.limit} items of each alone"] if specificity.limit else []
        remarks += [f"{title}, {remark}" for remark in said]
    heads = {head: head for line in lines for head in line.cells}
    caption = "Per cent ± standard error where known. Spec above is the mean of a run's line."
    return Table("benchmarks", "Specificity by benchmark", caption, heads, lines, remarks=remarks) if lines else None


def heat_maps(runs: list[Run], by: str) -> list[Table]:
    """A heat map for each rate that some run has on val by `category` or by `keyword`, as `by` says.

    Categories have one row per run. A benchmark has many keywords and few runs, so there each keyword has a row.
    """
    down, across, corner = ("run", "group", "method") if by == "category" else ("group", "run", by)
    rows = [row.model_copy(update={"run": run.title}) for run in runs for row in pick(run.rows, split="val", by=by)]
    maps = []
    for key in RATES:
        ordered = {"run": pick(rows, metric=key, by=by)}
        ordered["group"] = sorted(ordered["run"], key=lambda row: (row.group not in CATEGORIES, row.group))
        if lines := pivot(ordered[down], down, across):
            heads = {(name := getattr(row, across)): name for row in ordered[across]}
            title, better = f"{METRICS[key].title} {METRICS[key].arrow}", METRICS[key].better
            caption = f"By {by} of the record, per cent."
            maps.append(Table(f"{by}-{key}", title, caption, heads, lines, corner, better=better))
    return maps


class Ranking(NamedTuple):
    """Methods, best group first and open cases last. In its group the untouched model comes last.

    Attributes:
        utility: the column that measures utility: the one that most lines have a figure for; if tied, the first.
        bound: the ASR below which a method forgets.
    """

    rows: list[Line]
    published: list[Line]
    utility: str
    bound: float

    @property
    def measures(self) -> list[str]:
        """The columns that sum up a method: forgetting, over-forgetting and utility."""
        return ["asr_gen", "sarr", self.utility]

    @property
    def rule(self) -> str:
        """The order in words."""
        return (
            "In order: methods that forget and answer on benign pictures, that over-forget, that do not forget, as "
            f"whole intervals lie below or above half (ASR {100 * self.bound:.1f}%, SARR 50.0%); then all others."
        )


def rank(lines: list[Line], published: list[Line]) -> Ranking:
    """The lines in their groups, best first."""
    utility = max(_UTILITIES, key=lambda key: sum(line.cell(key).per_cent[0] is not None for line in lines))
    untouched = next((line.measured("asr_gen").value for line in lines if line.name == UNTOUCHED), None)
    bound = HALF * (1.0 if untouched is None else untouched)
    order = partial(_order, bound=bound)
    return Ranking(sorted(lines, key=order), sorted(published, key=order), utility, bound)


def _group(line: Line, bound: float) -> str:
    """A line's group, by the sides of the bounds on which its intervals of ASR and SARR lie (published: points)."""
    figures = [line.measured(key) for key in ("asr_gen", "sarr")]
    points = [(figure.value,) * 3 if line.published and figure.value is not None else None for figure in figures]
    asr, sarr = (figure.interval or point for figure, point in zip(figures, points, strict=True))
    if asr and asr[1] >= bound:
        return KEEPS
    if not asr or not sarr or asr[2] >= bound or sarr[1] < HALF <= sarr[2]:
        return OPEN
    return FORGETS if sarr[2] < HALF else OVER


def _order(line: Line, bound: float) -> tuple:
    group = _group(line, bound)
    asr, sarr = (line.measured(key).sort_key for key in ("asr_gen", "sarr"))
    within = {FORGETS: max(asr, sarr), OVER: sarr, KEEPS: asr, OPEN: max(asr, sarr)}[group]
    return [*WORDS, OPEN].index(group), line.name == UNTOUCHED, within


def headline(ranking: Ranking) -> str:
    """The findings in words, each claim with the range of its figures; empty if no method has a clear group."""
    lines = [line for line in ranking.rows if line.name != UNTOUCHED]
    parts = []
    for group, (single, several) in WORDS.items():
        if members := [line for line in lines if _group(line, ranking.bound) == group]:
            names = list_some([line.label for line in members])
            keys = {"ASR": "asr_gen"} | ({} if group == KEEPS else {"SARR": "sarr"})
            rates = ", ".join(f"{title} {_span(line.measured(key) for line in members)}" for title, key in keys.items())
            parts.append(f"{names} {single if len(members) == 1 else several}: {rates}.")
    if not parts:
        return ""
    if undecided := [line.label for line in lines if _group(line, ranking.bound) == OPEN]:
        parts.append(f"The intervals of {list_some(undecided)} do not tell.")
    forget = [line for line in lines if _group(line, ranking.bound) in (FORGETS, OVER)]
    return " ".join(filter(None, [*parts, _held_out(forget), _not_refused(forget), _cost(ranking, forget)]))


def _held_out(lines: list[Line]) -> str:
    """A sentence with ASR and SARR on held-out concepts alone, of methods that forget."""
    keys = {"ASR": "asr_held_out", "SARR": "sarr_held_out"}
    known = [(line, [f"{title} {spell(line.cell(key))}" for title, key in keys.items()]) for line in lines]
    figures = "; ".join(f"{line.label} {', '.join(of)}" for line, of in known if line.cell("asr_held_out").interval)
    return f"On held-out concepts alone: {figures}." if figures else ""


def _not_refused(lines: list[Line]) -> str:
    """A sentence on methods whose responses about harmful pictures are mostly wrong answers, not refusals."""
    wrong = {line.label: figure for line in lines if (figure := line.cell("wrong_forget")).interval}
    figures = ", ".join(f"{name} {spell(of)}" for name, of in wrong.items() if of.low is not None and of.low > HALF)
    return f"Wrong answers about harmful pictures, in place of refusals: {figures}." if figures else ""


def _cost(ranking: Ranking, known: list[Line]) -> str:
    """A sentence on the utility of methods that forget, compared with the untouched model's."""
    title = METRICS[COLUMNS[ranking.utility].metric].title
    untouched = next((line for line in ranking.rows if line.name == UNTOUCHED), None)
    if not untouched or not known:
        return ""
    before, figures = untouched.measured(ranking.utility), [line.measured(ranking.utility) for line in known]
    if any(figure.value is None for figure in [*figures, before]):
        return ""
    asr = untouched.measured("asr_gen")
    beside = f" and ASR {asr.text}%" if asr.value is not None else ""
    return f"{title} where they forget: {_span(figures)}; the untouched model has {title} {before.text}%{beside}."


def _span(figures: Iterable[Row]) -> str:
    """The lowest and the highest of some figures, in per cent; a single figure with its interval."""
    known = sorted(figures, key=lambda figure: figure.sort_key)
    if len(known) == 1:
        return spell(known[0])
    return f"{known[0].text} to {known[-1].text}%"
