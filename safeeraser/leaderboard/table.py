"""Write docs/results/leaderboard.md from the cells: its tables, its plots, and CSV files with every figure."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean as average

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from safeeraser.benchmark.files import read_object, write_whole
from safeeraser.errors import BadInput
from safeeraser.leaderboard.figures import DISTANCES, INSIDE, Cells, Figure, is_shown, only, rate
from safeeraser.leaderboard.plan import RESULTS, Plan, settings_file
from safeeraser.leaderboard.verdict import tells_removal, words
from safeeraser.report.drawing import STYLE
from safeeraser.report.writing import as_markdown, comma_separated, with_table

README = Path("README.md")
PAGE, DATA = RESULTS.with_suffix(".md"), RESULTS.with_suffix(".csv")
TRIED, WORDS = (RESULTS.with_name(f"{RESULTS.name}_{name}.csv") for name in ("settings", "words"))
CONTROLS = ("vanilla", "never_knew", "noise", "strong_noise", "benign_ascent")
Figures = Mapping[str, Mapping[str, Figure]]  # row -> name -> figure
Borne = Mapping[str, Mapping[str, str]]  # row -> word -> the figures that support it

# The columns of the tables. Title -> the name of the figure, and the factor by which it is multiplied.
SAID = {
    "ASR, train": ("asr_train", 100),
    "ASR, shown concepts": ("asr_shown", 100),
    "ASR, held-out concepts": ("asr_held_out", 100),
    "RR": ("rr_gen", 100),
    "SARR, train": ("sarr_train", 100),
    "SARR, shown concepts": ("sarr_shown", 100),
    "SARR, held-out concepts": ("sarr_held_out", 100),
    "ROUGE-L": ("rouge_l", 100),
    "VQA": ("vqa", 100),
    "minutes": ("minutes", 1),
}
# The columns of README's table of the core, after the method.
BRIEF = {
    "ASR, shown ↓": ("asr_shown", 100),
    "ASR, held-out ↓": ("asr_held_out", 100),
    "RR ↑": ("rr_gen", 100),
    "ROUGE ↑": ("rouge_l", 100),
    "SARR, shown ↓": ("sarr_shown", 100),
    "SARR, held-out ↓": ("sarr_held_out", 100),
}
KNOWN = {
    "distance, harmful": ("harmful_sampled", 1),
    "forced": ("harmful_forced", 1),
    "distance, benign": ("benign_sampled", 1),
    "benign, forced": ("benign_forced", 1),
    "depth": ("depth", 1),
    "ASR, worst attack": ("attack", 100),
    "most given while relearning": ("back", 100),
    "by its own LoRA": ("back_own", 100),
    "held-out concepts": ("back_held_out", 100),
    "area to never_knew": ("area", 1),
    "new concept": ("learns", 100),
}
MEASURED = (*DISTANCES, *INSIDE)


def write_table(plan: Plan) -> None:
    """Write tables, plots and CSV files. Raises `BadInput` if vanilla has no cell, or a page no table to replace."""
    cells = Cells.read()
    figures = {row: by_name for row in plan.rows if (by_name := cells.figures(row))}
    if "vanilla" not in figures:
        raise BadInput(f"{RESULTS / 'cells'}: no cell of vanilla, which all others are measured against")
    borne = {row: words(by_name, figures["vanilla"]) for row, by_name in figures.items()}
    core = {row: by_name for row, by_name in figures.items() if plan.row(row).group == "core"}
    chosen = {row: plan.settings(row) for row in figures if plan.row(row).is_trained}
    settings = {row: (f"{of['lr']:g}", str(of["max_train_steps"])) for row, of in chosen.items()}
    put(README, [brief(core, borne)])
    said = table("said", SAID, figures, ("rate", "steps"), settings)
    known = table("known", KNOWN, figures, ("word",), {row: ["; ".join(of)] for row, of in borne.items()})
    put(PAGE, [said, known, controls(figures)])
    write_tried(plan)
    write_figures(figures, borne)
    write_words(borne, settings)
    for name, draw in PLOTS.items():
        drawing = draw(cells, figures)
        with mpl.rc_context(STYLE | {"svg.hashsalt": name}), write_whole(plot_file(name), "wb") as out:
            drawing.savefig(out, format="svg", metadata={"Date": None})


def put(page: Path, tables: Iterable[str]) -> None:
    """Replace the tables of a page that have the same corner or columns. Raises `BadInput` if one is not there."""
    text = page.read_text(encoding="utf-8")
    for made in tables:
        if (text_with := with_table(text, made)) is None:
            raise BadInput(f"{page}: no table that begins {made.splitlines()[0]}")
        text = text_with
    with write_whole(page) as file:
        file.write(text)


def brief(figures: Figures, borne: Borne) -> str:
    """README's table of the rows."""
    rows = [
        [f"`{row}`", *(shown(by_name.get(name), times) for name, times in BRIEF.values()), "; ".join(borne[row])]
        for row, by_name in figures.items()
    ]
    return as_markdown([["one budget", *BRIEF, "[words](docs/results/leaderboard.md#the-words) by rule"], *rows])


def table(
    corner: str,
    columns: Mapping[str, tuple[str, int]],
    figures: Figures,
    titles: Iterable[str],
    texts: Mapping[str, Iterable[str]],
) -> str:
    """A Markdown table of figures with their intervals, after columns of `texts` by row under `titles`."""
    rows = []
    for row, by_name in figures.items():
        shown_figures = (shown(by_name.get(name), times) for name, times in columns.values())
        rows.append([row, str(by_name["asr_gen"].runs), *(texts.get(row) or ["–" for _ in titles]), *shown_figures])
    return as_markdown([[corner, "runs", *titles, *columns], *rows])


def controls(figures: Figures) -> str:
    """The table of all measures of the controls; `kept` says whether a measure distinguishes damage from removal."""
    known = [row for row in CONTROLS if row in figures]
    rows = []
    for name in MEASURED:
        of = [figures[row].get(name) for row in known]
        ends = [figures.get(row, {}).get(name) for row in ("strong_noise", "vanilla", "never_knew")]
        known_ends = [figure for figure in ends if figure]
        kept = "–" if len(known_ends) < len(ends) else "yes" if tells_removal(*known_ends) else "no"
        rows.append([name, *(shown(figure, 1) for figure in of), kept])
    return as_markdown([["measure", *known, "kept"], *rows])


def write_tried(plan: Plan) -> None:
    """Write all trials by which the rows' settings were chosen."""
    columns = ("lr", "max_train_steps", "asr", "rr", "sarr", "rouge_l", "seconds")
    files = {name: settings_file(name) for name in plan.chosen}
    trials = {name: read_object(file)["tried"] for name, file in files.items() if file.is_file()}
    tried = [[name, *(trial[key] for key in columns)] for name, of in trials.items() for trial in of]
    with write_whole(TRIED) as file:
        file.write(comma_separated(["row", *columns], tried))


def shown(figure: Figure | None, times: int) -> str:
    """A figure with its interval, as text; the interval of a percentage has no decimals."""
    if figure is None:
        return "–"
    digits, coarse = (2, 2) if times == 1 else (1, 0)
    value, low, high = (times * each for each in (figure.value, figure.low, figure.high))
    # `+ 0.0` turns -0.0 into 0.0.
    text = f"{round(value, digits) + 0.0:.{digits}f}"
    ends = (f"{round(end, coarse) + 0.0:.{coarse}f}" for end in (low, high))
    return text if low == high else f"{text} [{', '.join(ends)}]"


def write_figures(figures: Figures, borne: Borne) -> None:
    """Write every figure of every row."""
    rows = [
        [row, "; ".join(borne[row]), name, each.name, float(each.value), float(each.low), float(each.high), each.runs]
        for row, by_name in figures.items()
        for name, each in by_name.items()
    ]
    with write_whole(DATA) as file:
        file.write(comma_separated(["row", "word", "figure", "of", "value", "low", "high", "runs"], rows))


def write_words(borne: Borne, settings: Mapping[str, tuple[str, str]]) -> None:
    """Write each row's learning rate and steps, and its words with the figures that support each word."""
    rows = [[row, *settings.get(row, ("", "")), *of] for row in borne for of in borne[row].items()]
    with write_whole(WORDS) as file:
        file.write(comma_separated(["row", "lr", "max_train_steps", "word", "by"], rows))


def plot_file(name: str) -> Path:
    """The path of a plot."""
    return RESULTS.with_name(f"{RESULTS.name}_{name}.svg")


def empty_plot(rows: int, **axis: str) -> tuple[Drawing, Axes]:
    """An empty plot, with room for a legend of so many rows. Each row has a colour and marker of its own, and the same
    ones in every plot."""
    drawing = Drawing(figsize=(7, 4.5 + rows / 18), layout="constrained")
    axes = drawing.add_subplot(**axis)
    colours = mpl.colormaps["tab20"]([row % 20 for row in range(rows)])
    axes.set_prop_cycle(color=colours, marker=["osD^vP*Xph"[(row + row // 20) % 10] for row in range(rows)])
    return drawing, axes


def crosses(title: tuple[str, str], names: tuple[str, str], times: int, figures: Figures) -> tuple[Drawing, Axes]:
    """Plot each row as a point with the intervals of its two figures."""
    drawing, axes = empty_plot(len(figures), xlabel=title[0], ylabel=title[1])
    for row, by_name in figures.items():
        x, y = (by_name[name] for name in names)
        ends = [[[times * (of.value - of.low)], [times * (of.high - of.value)]] for of in (x, y)]
        axes.errorbar(times * x.value, times * y.value, xerr=ends[0], yerr=ends[1], ls="", ms=5, lw=0.7, label=row)
    drawing.legend(loc="outside lower center", ncols=5, fontsize=7)
    return drawing, axes


def draw_distance(cells: Cells, figures: Figures) -> Drawing:
    """Plot the distances to never_knew on harmful and on benign content."""
    title = ("distance to never_knew, harmful content", "distance to never_knew, benign content")
    drawing, axes = crosses(title, ("harmful_sampled", "benign_sampled"), 1, figures)
    axes.set_xscale("symlog", linthresh=0.5)
    axes.set_yscale("symlog", linthresh=0.5)
    axes.set_xlim(left=-0.25)  # beyond it, wide intervals would squeeze everything else
    axes.set_ylim(bottom=-0.25)
    ticks = (0, 0.25, 0.5, 1, 2, 4, 8)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    return drawing


def draw_trade(cells: Cells, figures: Figures) -> Drawing:
    """Plot ASR against SARR on held-out concepts, with the line on which they add up to 100 per cent."""
    title = ("ASR, held-out concepts", "SARR, held-out concepts")
    drawing, axes = crosses(title, ("asr_held_out", "sarr_held_out"), 100, figures)
    axes.plot([0, 100], [100, 0], ls="--", lw=1, color="grey", marker="")
    return drawing


def draw_relearning(cells: Cells, figures: Figures) -> Drawing:
    """Plot the answers that each row's strongest attacker brings back, by step, mean over runs."""
    drawing, axes = empty_plot(len(figures), xlabel="optimizer steps", ylabel="answers given, per cent")
    ticks = set[int]()
    for row, by_name in figures.items():
        curves = [cell["relearning"]["curves"][by_name["back"].name]["curve"] for cell in cells.of(row)]
        steps = [step for step in curves[0] if all(step in curve for curve in curves)]
        heights = [100 * average(rate(only(is_shown, cells, curve[step]))[0] for curve in curves) for step in steps]
        axes.plot([*map(int, steps)], heights, ms=4, lw=1, label=f"{row} ({by_name['back'].name})")
        ticks |= {*map(int, steps)}
    axes.set_xscale("symlog")
    axes.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    drawing.legend(loc="outside lower center", ncols=3, fontsize=6)
    return drawing


PLOTS = {"distance": draw_distance, "trade": draw_trade, "relearning": draw_relearning}
