"""Do 95% intervals hold the truth 95 times of 100? On simulated answers of 30 to 600 pictures: prints tables.

    python benchmarks/coverage.py                     # about 8 minutes on two cores

Each picture has a rate of its own, drawn from a beta distribution, and 4 to 12 answers. How alike a picture's answers
are goes by their intra-cluster correlation (ICC), from 0.1 to 1, where all of a picture's agree. Shown is the worst
over the ICCs, beside the percentile bootstrap over pictures on the same answers. Samples from which no interval can be
had, differences that are all 0, are left out. Exit code 1 if some coverage is below the aim.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from safeeraser.arguments import Arguments, count
from safeeraser.benchmark.intervals import of_totals
from safeeraser.errors import command

AIM = 93.0
CLUSTERS = (30, 60, 150, 300, 600)
MOST = 12  # answers of a picture
Draw = np.random.Generator


class Case(NamedTuple):
    """A kind of answers: what their intervals are called by, the true mean, and how they are drawn."""

    kind: str
    name: str
    truth: float
    iccs: tuple[float, ...]
    draw: Callable[[Draw, np.ndarray], np.ndarray]  # from where an answer is positive, [trials, clusters, MOST]
    share: float  # of positive answers


def _mixed(high: float, a: float, b: float) -> Callable[[Draw, np.ndarray], np.ndarray]:
    """`high` where an answer is positive, and beta(a, b) elsewhere."""
    return lambda rng, positive: np.where(positive, high, rng.beta(a, b, positive.shape))


def _changes(down: float) -> Callable[[Draw, np.ndarray], np.ndarray]:
    """Verdicts that two runs differ in where an answer is positive, by -1 for that share of pictures, else by +1."""
    return lambda rng, positive: positive * np.where(rng.random((*positive.shape[:2], 1)) < down, -1.0, 1.0)


def _graded(rng: Draw, positive: np.ndarray) -> np.ndarray:
    """The grades of a judge, 1 where an answer is positive."""
    return np.where(positive, 1.0, rng.choice([0.0, 0.2, 0.5, 0.8], positive.shape))


def _two_recalls(rng: Draw, positive: np.ndarray) -> np.ndarray:
    """The difference of two runs' ROUGE-L recalls, 0 where an answer is positive: the same words."""
    return np.where(positive, 0.0, rng.beta(3, 2, positive.shape) - rng.beta(4, 1, positive.shape))


SOME, ALL = (0.1, 0.3, 0.6), (0.1, 0.3, 0.6, 1.0)
CASES = {
    "rates, %": [
        Case("rate", f"{100 * p:g}", p, ALL, lambda rng, positive: positive * 1.0, p)
        for p in (0.005, 0.02, 0.1, 0.5, 0.9, 0.98)
    ],
    "means": [
        Case("mean", "recall, 50% are 1", 0.5 + 0.5 * 5 / 6, SOME, _mixed(1.0, 5, 1), 0.5),
        Case("mean", "recall, 97% are 1", 0.97 + 0.03 * 0.5, SOME, _mixed(1.0, 2, 2), 0.97),
        Case("mean", "recall, 50% are 0", 0.5 * 2 / 7, SOME, _mixed(0.0, 2, 5), 0.5),
        Case("mean", "recall, 97% are 0", 0.03 * 2 / 7, SOME, _mixed(0.0, 2, 5), 0.97),
        Case("mean", "grades, 80% are 1", 0.8 + 0.2 * 0.375, SOME, _graded, 0.8),
    ],
    "differences": [
        Case("difference", "30% of verdicts, all down", -0.3, SOME, _changes(1.0), 0.3),
        Case("difference", "3% of verdicts, all down", -0.03, SOME, _changes(1.0), 0.03),
        Case("difference", "10% of verdicts, 70% down", -0.04, SOME, _changes(0.7), 0.1),
        Case("difference", "5% of verdicts, 50% down", 0.0, SOME, _changes(0.5), 0.05),
        Case("difference", "recall, 50% the same", 0.5 * (0.6 - 0.8), SOME, _two_recalls, 0.5),
    ],
}


class Place(NamedTuple):
    """A case by its position, since functions do not travel between processes, at a number of pictures and an ICC."""

    heading: str
    case: int
    clusters: int
    icc: float

    @property
    def number(self) -> tuple[int, ...]:
        """What its random numbers are drawn by."""
        return list(CASES).index(self.heading), self.case, self.clusters, round(100 * self.icc)


class Cell(NamedTuple):
    """Per cent: the coverage, the mean width, and the same of the percentile bootstrap."""

    coverage: float
    width: float
    coverage_before: float
    width_before: float
    icc: float


def simulate(rng: Draw, case: Case, clusters: int, icc: float, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of each picture's values, [trials, clusters] each."""
    shape, scale = (trials, clusters), 1 / icc - 1
    own = rng.beta(case.share * scale, (1 - case.share) * scale, shape) if scale else rng.random(shape) < case.share
    counts = rng.integers(4, MOST + 1, shape)
    positive = rng.random((*shape, MOST)) < own[..., None]
    values = case.draw(rng, positive)
    return (values * (np.arange(MOST) < counts[..., None])).sum(axis=-1), counts.astype(float)


@lru_cache(maxsize=1)
def _drawn(clusters: int) -> np.ndarray:
    return np.random.default_rng(233).multinomial(clusters, np.full(clusters, 1 / clusters), size=2000).astype(float)


def percentile(sums: np.ndarray, counts: np.ndarray, kind: str) -> np.ndarray:
    """The intervals of the percentile bootstrap over pictures, [2, trials].

    Where all values are 0 or all 1, the exact bound for as many trials as there are pictures.
    """
    clusters = sums.shape[1]
    drawn = _drawn(clusters)
    bounds = np.quantile((drawn @ sums.T) / (drawn @ counts.T), [0.025, 0.975], axis=0)
    if kind != "difference":
        edge = 0.025 ** (1 / clusters)
        bounds[:, sums.sum(axis=1) == 0] = [[0.0], [1 - edge]]
        bounds[:, (sums == counts).all(axis=1)] = [[edge], [1.0]]
    return bounds


def measure(place: Place, trials: int, seed: int) -> Cell:
    """One case at one number of pictures and one ICC."""
    case = CASES[place.heading][place.case]
    rng = np.random.default_rng([seed, *place.number])
    sums, counts = simulate(rng, case, place.clusters, place.icc, trials)
    pairs = zip(sums, counts, strict=True)
    found = np.array([of_totals(*pair, case.kind) for pair in pairs], dtype=float).T
    told = ~np.isnan(found[0])

    def of(bounds: np.ndarray) -> tuple[float, float]:
        low, high = bounds[:, told]
        return 100 * np.mean((low <= case.truth) & (case.truth <= high)), 100 * np.mean(high - low)

    return Cell(*of(found), *of(percentile(sums, counts, case.kind)), place.icc)


def show(heading: str, cells: dict[Place, Cell]) -> None:
    """Print a heading's table: a case's worst coverage over the ICCs, and its mean width over them, in points."""
    table = Table(heading, "pictures", *map(str, CLUSTERS))
    for column in table.columns[2:]:
        column.justify, column.no_wrap = "right", True
    for number, case in enumerate(CASES[heading]):
        of = [[cells[Place(heading, number, clusters, icc)] for icc in case.iccs] for clusters in CLUSTERS]
        rows = {
            "coverage": [f"{min(column).coverage:.1f}" for column in of],
            "at ICC": [f"{min(column).icc:g}" for column in of],
            "width": [f"{np.mean([cell.width for cell in column]):.1f}" for column in of],
            "percentile": [f"{min(cell.coverage_before for cell in column):.1f}" for column in of],
            "its width": [f"{np.mean([cell.width_before for cell in column]):.1f}" for column in of],
        }
        for row, shown in rows.items():
            table.add_row(case.name if row == "coverage" else "", row, *shown, end_section=row == "its width")
    Console().print(table)


@command
def main() -> int:
    """Simulate, print."""
    parser = Arguments(prog="python benchmarks/coverage.py", description=__doc__)
    add = parser.add_argument
    add("--trials", type=count, default=2000, help="samples at each number of pictures and ICC (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    add("--processes", type=count, default=2, help="to use (default: %(default)s)")
    given = parser.parse_args()
    # By number of pictures, so that each process keeps the resamples of one.
    places = [
        Place(heading, number, clusters, icc)
        for clusters in CLUSTERS
        for heading, cases in CASES.items()
        for number, case in enumerate(cases)
        for icc in case.iccs
    ]
    with ProcessPoolExecutor(given.processes) as pool:
        cells = dict(zip(places, pool.map(partial(measure, trials=given.trials, seed=given.seed), places), strict=True))
    for heading in CASES:
        show(heading, cells)
    place, lowest = min(cells.items(), key=lambda of: of[1])
    name = f"{place.heading} {CASES[place.heading][place.case].name}, {place.clusters} pictures, ICC {place.icc:g}"
    before = min(cell.coverage_before for cell in cells.values())
    error = 100 * (0.95 * 0.05 / given.trials) ** 0.5
    print(f"standard error of a coverage: {error:.1f}; lowest of the percentile bootstrap: {before:.1f}")
    print(f"lowest coverage: {lowest.coverage:.1f} ({name}); aim {AIM:g}")
    return 0 if lowest.coverage >= AIM else 1


if __name__ == "__main__":
    main()
