"""What an audit takes: points, responses, what is trained and read beside, minutes, and what the judges cost."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rich.console import Console
from rich.table import Table

from safeeraser.audit.look import read_beside
from safeeraser.audit.measure import read_point
from safeeraser.audit.options import Options
from safeeraser.audit.points import Point
from safeeraser.audit.subjects import AUDITED
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.requests import build_requests
from safeeraser.judge import costs
from safeeraser.judge.panel import Panel
from safeeraser.score.asking import as_answered, build_queries


@dataclass
class Effort:
    """How much there is of something, and how much of it is left."""

    points: int = 0
    left: int = 0
    responses: int = 0
    read: int = 0

    def __iadd__(self, other: "Effort") -> "Effort":
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self


class Plan:
    """What the points take.

    Beside responses, items are read by an attack that learns, by a look inside, and in relearning, where each is read
    forwards and backwards, which counts as three.
    """

    def __init__(self, points: list[Point], options: Options) -> None:
        self.points, self.options = [point for point in points if not point.lacks], options
        self.data = read_records(options.val_file)
        self.asked = lru_cache(lambda view, samples: len(build_requests(self.data, self.selection(view, samples))))
        self.found = {point: read_point(point, options) for point in self.points}

    def selection(self, view: str, samples: int | None):
        return self.options.selection((view,), samples)

    def responses(self, point: Point) -> int:
        """How many a point asks for."""
        return 0 if point.inside else sum(self.asked(view, point.samples) for view in point.views)

    def read(self, point: Point) -> int:
        """How many items it reads beside."""
        questions = self.asked("forget", 1)
        if point.inside:
            return read_beside(point.subject.model_path, questions)
        if point.attack:
            records = len(self.selection("forget", 1).records(self.data))
            return ATTACKS[point.attack].passes(records, questions // records)
        return 0

    def by_group(self) -> dict[tuple[str, str], Effort]:
        """Of the audited model and of its controls, group by group; trainings that are left among what is read."""
        found: dict[tuple[str, str], Effort] = defaultdict(Effort)
        trained = set()
        for point in self.points:
            left = self.found[point] is None
            read = self.read(point) * left
            if left and point.relearned and point.relearned.training not in trained:
                trained.add(point.relearned.training)
                protocol = self.options.protocol
                read += 3 * protocol.items * max(protocol.steps)
            who = AUDITED if point.subject.name == AUDITED else "controls"
            found[who, point.group] += Effort(1, left, self.responses(point) * left, read)
        return found

    def seconds_each(self) -> float | None:
        """What a response has taken so far, judged; None before the first point."""
        done = [(value["seconds"], self.responses(point)) for point, value in self.found.items() if value]
        done = [(seconds, count) for seconds, count in done if count]
        return sum(seconds for seconds, _ in done) / sum(count for _, count in done) if done else None

    def minutes(self) -> float | None:
        """What is left, on one process; an item that is read counts as a response."""
        efforts, each = self.by_group().values(), self.seconds_each()
        return each and sum(one.responses + one.read for one in efforts) * each / 60

    def calls(self, view: str, point: Point) -> list[str]:
        """What a judge is asked about a response of the view, by its own names of the metrics."""
        metrics = [asked for asked, key in ASKED.items() if METRICS[key].view == view]
        return metrics + (["rr"] if point.refusals and view != "forget" else [])

    def judging(self, panel: Panel) -> Iterator[tuple[str, str, costs.Spent]]:
        """What the judges are asked for points that are left, as long as if each response were the data file's."""
        chosen = self.selection("forget", 1).records(self.data)
        data = DataFile(self.data.path, [self.data.records[n] for n in chosen], [self.data.raw[n] for n in chosen])
        queries = build_queries(as_answered(data), data, list(range(len(chosen))), refusals=False)
        wanted: dict[str, int] = defaultdict(int)
        for point in self.points:
            for view in point.views if self.found[point] is None and not point.inside else ():
                for metric in self.calls(view, point):
                    wanted[metric] += self.asked(view, point.samples)
        totals: dict[tuple[str, str], costs.Spent] = defaultdict(costs.Spent)
        for metric, title, spent in panel.foresee(queries):
            totals[metric, title] += spent
        for (metric, title), total in totals.items():
            times = wanted[metric] / total.calls if total.calls else 0
            yield metric, title, costs.Spent(*(round(part * times) for part in vars(total).values()))


def show_plan(points: list[Point], options: Options, panel: Panel) -> None:
    """Print how much there is to do, group by group, without loading a model."""
    plan = Plan(points, options)
    table = Table("of", "group", "points", "left", "responses", "read beside")
    total = Effort()
    for (who, group), effort in plan.by_group().items():
        total += effort
        table.add_row(who, group, *map(str, vars(effort).values()))
    table.add_section()
    table.add_row("all", "", *map(str, vars(total).values()))
    Console().print(table)
    print(
        "Left to be answered, and to be read beside: by what learns, looks inside, or is trained (counted three times)."
    )
    print(_minutes(plan))
    if panel.served:
        costs.show_plan(plan.judging(panel), panel.prices, share=options.judging.price_share)


def time_left(points: list[Point], options: Options) -> str:
    """One line on what is left, by the speed of what is measured."""
    return _minutes(Plan(points, options))


def _minutes(plan: Plan) -> str:
    minutes = plan.minutes()
    if minutes is None:
        return "How long it takes is told when the first point is measured, or by a dry run after that."
    return f"About {minutes:.0f} minutes on one process, by the speed so far; shared among several it takes their part."
