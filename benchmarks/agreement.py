"""Is the true rate within the corrected one's interval 93 times of 100? On simulated sheets of labels: prints a table.

    python benchmarks/agreement.py                    # about 12 minutes on two cores

An artificial judge, of sensitivity 0.8 and specificity 0.95, judges 12 responses to each of 100 or 600 pictures; 200
are drawn and labelled with the truth, as --label_sheet draws them, and --agree's own code corrects the judge's rate.
Both the truth and the judge's errors are alike within a picture, by an intra-cluster correlation (ICC) of 0.1 or 0.3.
Shown is the worst over these two. Beside it stands how often the judge's own interval holds the truth, and how often
Rogan and Gladen's estimate does with the percentile bootstrap over pictures. Exit code 1 if a corrected coverage is
below 93.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Column, Table

from safeeraser.arguments import Arguments, count, share
from safeeraser.benchmark.intervals import interval
from safeeraser.errors import command
from safeeraser.score.agreement import FUNCTIONS, Labelled, agreement
from safeeraser.score.labels import draw

AIM = 93.0
RATES = (0.005, 0.02, 0.05, 0.2, 0.5, 0.8)
PICTURES, ICCS = (100, 600), (0.1, 0.3)
ANSWERS, CATEGORIES, RESAMPLES = 12, 6, 1000


class Place(NamedTuple):
    """A true rate at a number of pictures and an ICC."""

    rate: float
    pictures: int
    icc: float


class Judge(NamedTuple):
    """How often it is right about what counts, and about what does not."""

    sensitivity: float
    specificity: float


class Sheet(NamedTuple):
    """All responses, picture by picture, and those of them that were labelled."""

    clusters: np.ndarray
    judge: np.ndarray
    labelled: list[Labelled]


def simulate(rng: np.random.Generator, place: Place, judge: Judge, labels: int, seed: int) -> Sheet:
    """One run's responses with truth and verdicts, and the labels of those that were drawn."""
    scale = 1 / place.icc - 1
    own, finds, spares = (
        rng.beta(share * scale, (1 - share) * scale, (place.pictures, 1)) for share in (place.rate, *judge)
    )
    shape = (place.pictures, ANSWERS)
    true = rng.random(shape) < own
    said = np.where(true, rng.random(shape) < finds, rng.random(shape) >= spares)
    clusters = np.repeat(np.arange(place.pictures), ANSWERS)
    true, said = true.ravel(), said.ravel()
    strata = [(float(verdict), int(cluster) % CATEGORIES) for verdict, cluster in zip(said, clusters, strict=True)]
    labelled = [
        Labelled(int(clusters[one.place]), bool(said[one.place]), bool(true[one.place]), one.size / one.drawn)
        for one in draw(strata, labels, seed)
    ]
    return Sheet(clusters, said, labelled)


def truths(rate: float, judge: Judge) -> dict[str, float]:
    """What the figures are of all responses that there could be."""
    said = rate * judge.sensitivity + (1 - rate) * (1 - judge.specificity)
    found = rate * judge.sensitivity / said
    missed = rate * (1 - judge.sensitivity) / (1 - said)
    return {"corrected": rate, **{name: function(said, found, missed) for name, function in FUNCTIONS.items()}}


def bootstrap(sheet: Sheet, pictures: int, drawn: np.ndarray) -> tuple[float, float]:
    """Rogan and Gladen's estimate of each resample of the pictures: its percentiles."""
    columns = np.zeros((pictures, 5))
    columns[:, 4] = np.bincount(sheet.clusters, sheet.judge, pictures) / ANSWERS
    for one in sheet.labelled:
        columns[one.cluster, 2 * one.judge + one.label] += one.weight
    neither, missed, invented, both, said = (drawn @ columns).T
    with np.errstate(divide="ignore", invalid="ignore"):
        finds, spares = both / (both + missed), neither / (neither + invented)
        rates = np.clip((said / pictures + spares - 1) / (finds + spares - 1), 0, 1)
    return tuple(np.nanquantile(rates, [0.025, 0.975])) if np.isfinite(rates).any() else (0.0, 1.0)


def measure(place: Place, judge: Judge, sheets: int, labels: int, seed: int) -> dict[str, tuple[float, float]]:
    """How often each interval holds the truth, and its mean width, in per cent."""
    rng = np.random.default_rng([seed, PICTURES.index(place.pictures), *(round(1000 * part) for part in place[::2])])
    drawn = rng.multinomial(place.pictures, np.full(place.pictures, 1 / place.pictures), RESAMPLES).astype(float)
    found: dict[str, list[tuple[bool, float]]] = {}
    for number in range(sheets):
        sheet = simulate(rng, place, judge, labels, number)
        told = agreement(list(zip(sheet.clusters.tolist(), sheet.judge.tolist(), strict=True)), sheet.labelled)
        bounds = {name: (told[name]["low"], told[name]["high"]) for name in FUNCTIONS if told[name]}
        bounds["corrected"] = (told["low"], told["high"])
        bounds["judge"] = interval(zip(sheet.clusters.tolist(), sheet.judge.astype(float), strict=True))
        bounds["bootstrap"] = bootstrap(sheet, place.pictures, drawn)
        true = truths(place.rate, judge)
        for name, (low, high) in bounds.items():
            found.setdefault(name, []).append((low <= true.get(name, place.rate) <= high, high - low))
    return {name: tuple(100 * np.mean(of, axis=0)) for name, of in found.items()}


def show(cells: dict[Place, dict[str, tuple[float, float]]]) -> None:
    """Print the worst coverage over the ICCs of each interval, and the mean width of two."""
    names = ("corrected", "judge", "bootstrap", *FUNCTIONS)
    heads = ["pictures", "rate, %", "corrected", "width", "judge", "bootstrap", "width", *FUNCTIONS]
    table = Table(*(Column(head, justify="right") for head in heads), title="coverage, %")
    for pictures in PICTURES:
        for rate in RATES:
            of = [cells[Place(rate, pictures, icc)] for icc in ICCS]
            row = [str(pictures), f"{100 * rate:g}"]
            for name in names:
                row.append(f"{min(cell[name][0] for cell in of):.1f}")
                if name in ("corrected", "bootstrap"):
                    row.append(f"{np.mean([cell[name][1] for cell in of]):.1f}")
            table.add_row(*row, end_section=rate == RATES[-1])
    Console(width=125).print(table)


@command
def main() -> int:
    """Simulate, print."""
    parser = Arguments(prog="python benchmarks/agreement.py", description=__doc__)
    add = parser.add_argument
    add("--sheets", type=count, default=1000, help="at each rate, number of pictures and ICC (default: %(default)s)")
    add("--labels", type=count, default=200, help="of a sheet (default: %(default)s)")
    add("--sensitivity", type=share, default=0.8, help="of the judge (default: %(default)s)")
    add("--specificity", type=share, default=0.95, help="of the judge (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the sheets (default: %(default)s)")
    add("--processes", type=count, default=2, help="to use (default: %(default)s)")
    given = parser.parse_args()
    judge = Judge(given.sensitivity, given.specificity)
    places = [Place(rate, pictures, icc) for pictures in PICTURES for rate in RATES for icc in ICCS]
    work = partial(measure, judge=judge, sheets=given.sheets, labels=given.labels, seed=given.seed)
    with ProcessPoolExecutor(given.processes) as pool:
        cells = dict(zip(places, pool.map(work, places), strict=True))
    show(cells)
    lowest = min(cells, key=lambda place: cells[place]["corrected"][0])
    coverage, error = cells[lowest]["corrected"][0], 100 * (0.95 * 0.05 / given.sheets) ** 0.5
    print(f"standard error of a coverage: {error:.1f}")
    print(f"lowest corrected: {coverage:.1f} ({lowest}); aim {AIM:g}")
    return 0 if coverage >= AIM else 1


if __name__ == "__main__":
    main()
