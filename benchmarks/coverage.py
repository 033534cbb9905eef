"""Do 95% intervals contain the true value 95 times out of 100? Simulates answers about pictures and prints tables.

    python benchmarks/coverage.py                     # rates, means and differences; about 8 minutes on two cores
    python benchmarks/coverage.py --labels 200        # rates that labels correct; about 10 minutes

Each picture has a rate of its own, drawn from a beta distribution, and 4 to 12 answers. The intra-cluster correlation
(ICC) says how alike a picture's answers are: from 0.1 to 1, where they all agree. The tables show the worst coverage
over the ICCs and the mean width, for our intervals and for the percentile bootstrap over pictures on the same answers.
Samples that give no interval, differences that are all 0, are left out.

With --labels N an artificial judge with the given --sensitivity and --specificity judges 12 answers to each picture. N
of all answers are drawn, as --label_sheet draws them, and labelled with the truth. Then --agree's own code corrects the
judge's rate. The table also has the intervals of the judge's own rate, of kappa, sensitivity and specificity. Exit code
1: a coverage is below the aim.
"""

from collections import Counter
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from shared import picture_rates, show, spread

from safeeraser.arguments import Arguments, count, share
from safeeraser.benchmark.intervals import interval, of_totals
from safeeraser.errors import command
from safeeraser.score.agreement import FUNCTIONS, Labelled, agreement
from safeeraser.score.labels import draw

AIM = 93.0
CLUSTERS = (30, 60, 150, 300, 600)
MOST = 12  # answers of a picture
LABELLED = (0.005, 0.02, 0.05, 0.2, 0.5, 0.8), (100, 600), (0.1, 0.3)  # rates, pictures, ICCs
NAMES = ("corrected", "judge", *FUNCTIONS)
ICCS = {"rate": (0.1, 0.3, 0.6, 1.0), "mean": (0.1, 0.3, 0.6), "difference": (0.1, 0.3, 0.6)}
Draw = Callable[[np.random.Generator, np.ndarray], np.ndarray]  # draws values, given which answers are positive


class Case(NamedTuple):
    """A kind of answers: their name, the share of positive ones, the true mean, and how values are drawn."""

    name: str
    share: float
    truth: float
    draw: Draw


def mixed(name: str, share: float, high: float, a: float, b: float) -> Case:
    """Values that are `high` for positive answers, and drawn from beta(a, b) for the others."""
    draw: Draw = lambda rng, positive: np.where(positive, high, rng.beta(a, b, positive.shape))  # noqa: E731
    return Case(name, share, share * high + (1 - share) * a / (a + b), draw)


def changes(name: str, share: float, down: float) -> Case:
    """Differences of two runs' verdicts: for positive answers -1 (in the share `down` of pictures) or +1, else 0."""

    def draw(rng: np.random.Generator, positive: np.ndarray) -> np.ndarray:
        return positive * np.where(rng.random((*positive.shape[:2], 1)) < down, -1.0, 1.0)

    return Case(name, share, share * (1 - 2 * down), draw)


def graded(rng: np.random.Generator, positive: np.ndarray) -> np.ndarray:
    """A judge's grades: 1 for a positive answer, else 0 to 0.8."""
    return np.where(positive, 1.0, rng.choice([0.0, 0.2, 0.5, 0.8], positive.shape))


def two_recalls(rng: np.random.Generator, positive: np.ndarray) -> np.ndarray:
    """Differences of two runs' ROUGE-L recalls: 0 for a positive answer, which has the same words in both."""
    return np.where(positive, 0.0, rng.beta(3, 2, positive.shape) - rng.beta(4, 1, positive.shape))


# By the kind of figure that an interval is computed for.
CASES = {
    "rate": [
        Case(f"{100 * share:g}", share, share, lambda _, positive: positive * 1.0)
        for share in (0.005, 0.02, 0.1, 0.5, 0.9, 0.98)
    ],
    "mean": [
        mixed("recall, 50% are 1", 0.5, 1.0, 5, 1),
        mixed("recall, 97% are 1", 0.97, 1.0, 2, 2),
        mixed("recall, 50% are 0", 0.5, 0.0, 2, 5),
        mixed("recall, 97% are 0", 0.97, 0.0, 2, 5),
        Case("grades, 80% are 1", 0.8, 0.8 + 0.2 * 0.375, graded),
    ],
    "difference": [
        changes("30% of verdicts, all down", 0.3, 1.0),
        changes("3% of verdicts, all down", 0.03, 1.0),
        changes("10% of verdicts, 70% down", 0.1, 0.7),
        changes("5% of verdicts, 50% down", 0.05, 0.5),
        Case("recall, 50% the same", 0.5, 0.5 * (0.6 - 0.8), two_recalls),
    ],
}


@lru_cache(maxsize=1)
def resamples(clusters: int) -> np.ndarray:
    """How often each picture is drawn in each of 2,000 resamples."""
    return np.random.default_rng(233).multinomial(clusters, np.full(clusters, 1 / clusters), size=2000).astype(float)


def percentile(sums: np.ndarray, counts: np.ndarray, kind: str) -> np.ndarray:
    """The intervals of the percentile bootstrap over pictures, [2, trials].

    If all values are 0, or all are 1, it is the exact bound for as many trials as there are pictures.
    """
    drawn, edge = resamples(sums.shape[1]), 0.025 ** (1 / sums.shape[1])
    bounds = np.quantile((drawn @ sums.T) / (drawn @ counts.T), [0.025, 0.975], axis=0)
    if kind != "difference":
        bounds[:, sums.sum(axis=1) == 0] = [[0.0], [1 - edge]]
        bounds[:, (sums == counts).all(axis=1)] = [[edge], [1.0]]
    return bounds


def measure(place: tuple[int, str, int, float], trials: int, seed: int) -> np.ndarray:
    """The coverage and mean width of our interval, then of the percentile bootstrap's, in per cent."""
    clusters, kind, number, icc = place
    case = CASES[kind][number]
    rng = np.random.default_rng([seed, list(CASES).index(kind), number, clusters, round(100 * icc)])
    shape = trials, clusters
    rates, counts = picture_rates(rng, case.share, icc, shape), rng.integers(4, MOST + 1, shape)
    values = case.draw(rng, rng.random((*shape, MOST)) < rates[..., None])
    sums, counts = (values * (np.arange(MOST) < counts[..., None])).sum(axis=-1), counts.astype(float)
    ours = np.array([of_totals(*pair, kind) for pair in zip(sums, counts, strict=True)], dtype=float).T
    figures = []
    for low, high in (bounds[:, ~np.isnan(ours[0])] for bounds in (ours, percentile(sums, counts, kind))):
        figures += [np.mean((low <= case.truth) & (case.truth <= high)), np.mean(high - low)]
    return 100 * np.array(figures)


def measure_corrected(
    place: tuple[float, int, float], judge: tuple[float, float], trials: int, labels: int, seed: int
) -> dict[str, np.ndarray]:
    """How often each interval contains the true value, and its mean width, in per cent."""
    (rate, pictures, icc), (sensitivity, specificity) = place, judge
    rng = np.random.default_rng([seed, LABELLED[1].index(pictures), round(1000 * rate), round(1000 * icc)])
    said = rate * sensitivity + (1 - rate) * (1 - specificity)
    of_all = said, rate * sensitivity / said, rate * (1 - sensitivity) / (1 - said)
    truths = {name: function(*of_all) for name, function in FUNCTIONS.items()}
    clusters = np.repeat(np.arange(pictures), MOST).tolist()
    intervals: dict[str, list[tuple[bool, float]]] = {name: [] for name in NAMES}
    for number in range(trials):
        rates, finds, spares = (picture_rates(rng, each, icc, (pictures, 1)) for each in (rate, *judge))
        true = rng.random((pictures, MOST)) < rates
        judged = np.where(true, rng.random(true.shape) < finds, rng.random(true.shape) >= spares).ravel().tolist()
        strata = [(float(verdict), cluster % 6) for cluster, verdict in zip(clusters, judged, strict=True)]
        right, drawn = true.ravel().tolist(), draw(strata, labels, number)
        size, taken = Counter(strata), Counter(strata[n] for n in drawn)
        weights = {stratum: size[stratum] / taken[stratum] for stratum in taken}
        labelled = [Labelled(clusters[n], judged[n], right[n], weights[strata[n]]) for n in drawn]
        figures = agreement(list(zip(clusters, judged, strict=True)), labelled)
        bounds = {name: (figures[name]["low"], figures[name]["high"]) for name in FUNCTIONS if figures[name]}
        bounds["corrected"] = figures["low"], figures["high"]
        bounds["judge"] = interval(zip(clusters, map(float, judged), strict=True))
        for name, (low, high) in bounds.items():
            intervals[name].append((low <= truths.get(name, rate) <= high, high - low))
    return {name: 100 * np.mean(of, axis=0) for name, of in intervals.items()}


def plain(given: Any) -> float:
    """Print the tables of rates, means and differences; returns the lowest coverage."""
    # Ordered by the number of pictures, so that each process caches the resamples of one number.
    kinds = [(kind, number, icc) for kind, of in CASES.items() for number in range(len(of)) for icc in ICCS[kind]]
    places = [(clusters, *kind) for clusters in CLUSTERS for kind in kinds]
    cells = spread(partial(measure, trials=given.trials, seed=given.seed), places, given.processes)
    for kind, cases in CASES.items():
        rows = []
        for number, case in enumerate(cases):
            of = np.array([[cells[clusters, kind, number, icc] for icc in ICCS[kind]] for clusters in CLUSTERS])
            figures = {"coverage": of.min(1)[:, 0], "width": of.mean(1)[:, 1]}
            figures |= {"percentile": of.min(1)[:, 2], "its width": of.mean(1)[:, 3]}
            rows += [[case.name, row, *(f"{figure:.1f}" for figure in each)] for row, each in figures.items()]
        show([f"{kind}s", "pictures", *map(str, CLUSTERS)], rows, left=2)
    return min(cell[0] for cell in cells.values())


def corrected(given: Any) -> float:
    """Print the table of rates that labels correct; returns the lowest coverage."""
    how = {"judge": (given.sensitivity, given.specificity), "trials": given.trials, "labels": given.labels}
    cells = spread(partial(measure_corrected, **how, seed=given.seed), [*product(*LABELLED)], given.processes)
    rows = []
    for rate, pictures in product(*LABELLED[:2]):
        of = [cells[rate, pictures, icc] for icc in LABELLED[2]]
        worst = [f"{min(cell[name][0] for cell in of):.1f}" for name in NAMES]
        width = f"{np.mean([cell['corrected'][1] for cell in of]):.1f}"
        rows.append([f"{100 * rate:g}", str(pictures), worst[0], width, *worst[1:]])
    show(["rate, %", "pictures", "corrected", "its width", *NAMES[1:]], rows, "coverage, %", left=0)
    return min(cell["corrected"][0] for cell in cells.values())


@command
def main() -> int:
    """Simulate answers and print the tables."""
    parser = Arguments(prog="python benchmarks/coverage.py", description=__doc__)
    add = parser.add_argument
    add("--trials", type=count, default=2000, help="samples at each number of pictures and ICC (default: %(default)s)")
    add("--labels", type=count, help="correct rates by so many labels of each sample")
    add("--sensitivity", type=share, default=0.8, help="of the judge (default: %(default)s)")
    add("--specificity", type=share, default=0.95, help="of the judge (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the samples (default: %(default)s)")
    add("--processes", type=count, default=2, help="to use (default: %(default)s)")
    given = parser.parse_args()
    lowest = (corrected if given.labels else plain)(given)
    error = 100 * (0.95 * 0.05 / given.trials) ** 0.5
    print(f"lowest coverage: {lowest:.1f}, aim {AIM:g}; standard error of a coverage: {error:.1f}")
    return 0 if lowest >= AIM else 1


if __name__ == "__main__":
    main()
