"""The points of an audit, each one model asked in one way, and their cost: responses, minutes and judges' calls."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import astuple, dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from safeeraser.audit import inside
from safeeraser.audit.options import Options
from safeeraser.audit.relearn import Relearned, adapter_after
from safeeraser.audit.subjects import AUDITED, Subject, Subjects
from safeeraser.benchmark.audits import RELEARN
from safeeraser.benchmark.files import hash_settings, read_object
from safeeraser.benchmark.metrics import ASKED, METRICS
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.requests import build_requests
from safeeraser.judge.judge import Spent
from safeeraser.judge.panel import Panel
from safeeraser.judge.panel import show_plan as show_costs
from safeeraser.model.load import load_config, load_preprocessor
from safeeraser.model.rounding import ROUNDINGS
from safeeraser.score.asking import imagine_queries

SCALES = (0.25, 0.5, 0.75, 1.25, 1.5)  # 1 is the clean point, and 0 the untouched model
TEMPERATURES, SAMPLES = (0.0, 0.7, 1.0, 1.3), 10
CROSSED = tuple(view for view in VIEWS if view != "swapped")  # three pictures (harmful, benign, none) by two questions
PAIR = ("forget", "decoupled")  # the harmful question on both pictures: ASR, RR, SARR


@dataclass(frozen=True)
class Point:
    """One model, asked in one way."""

    subject: Subject
    group: str  # the kind of variation: a curve or a table of the card
    name: str
    at: float | None = None  # the position on a curve
    views: tuple[str, ...] = PAIR
    attack: str | None = None
    scale: float = 1.0
    quantization: str = "none"
    temperature: float | None = None  # None: the audit's own, as for `samples`
    samples: int | None = None
    refusals: bool = False
    relearned: Relearned | None = None
    inside: bool = False  # whether the model's knowledge is measured, not its responses
    lacks: str = field(default="", compare=False)  # why it cannot be measured here; empty if it can
    judged_by: dict[str, Any] = field(default_factory=dict, compare=False)  # `Options.judged_by`

    @property
    def folder(self) -> Path:
        """The folder of the point's files."""
        return self.subject.folder / self.group / self.name

    @property
    def results(self) -> Path:
        """The folder of its results: one for each judging, because audits with other judges share the responses."""
        return self.folder if self.inside else self.folder / f"judged-{hash_settings(self.judged_by)}"

    @property
    def made_of(self) -> dict[str, Any]:
        """The code and the judging that its figures depend on; if either changes, the point is measured anew."""
        if self.inside:
            return {"measured_by": inside.CODE}
        return {"attack_code": ATTACKS[self.attack].code if self.attack else None, "judged_by": self.judged_by}

    @property
    def model_path(self) -> str:
        """The model that the point's adapter belongs on."""
        return self.subject.merged if self.relearned else self.subject.model_path

    @property
    def adapter(self) -> Path | None:
        """The adapter on the model: after relearning the relearned one, else the subject's."""
        return adapter_after(at.training, at.step) if (at := self.relearned) else self.subject.adapter

    @property
    def title(self) -> str:
        """The name of the point in logs and results."""
        return f"{self.subject.prefix}{self.group} {self.name}"


def read_point(point: Point) -> dict[str, Any] | None:
    """The point's stored result; None if there is none, or if `Point.made_of` says that it was made otherwise."""
    file = point.results / "point.json"
    measured = read_object(file) if file.is_file() else {}
    return measured if point.made_of.items() <= measured.items() else None


def references(options: Options, subjects: Subjects) -> Iterator[Point]:
    """The points that all others are compared with: the adapter and its controls, unchanged, in six views."""
    prepared = load_preprocessor(options.model_path)
    for subject in subjects.values():
        lacks = ATTACKS[subject.attack].lacks(prepared) if subject.attack else ""
        yield Point(subject, "clean", "clean", views=CROSSED, attack=subject.attack, refusals=True, lacks=lacks)


def attacks(options: Options, subjects: Subjects) -> Iterator[Point]:
    """The adapter and the controls under each attack; the controls show whether the attack itself breaks a model."""
    prepared, data = load_preprocessor(options.model_path), read_records(options.val_file)
    for name, attack in ATTACKS.items():
        if attack.reads and not options.val_file.with_name(attack.reads).is_file():
            continue  # the file with other wordings is optional
        lacks = attack.lacks(prepared)
        if attack.learns and attack.request and not lacks:
            try:
                build_requests(data, options.selection(PAIR[:1]), attack)
            except BadInput as error:  # too few held-out questions to show as examples
                lacks = str(error)
        for subject in subjects.values():
            if attack.control or subject.attack or (attack.adapter and not subject.adapter):
                continue
            # If the attack hides the picture, asking about the benign one would give the same prompts again.
            views = PAIR if subject.name == AUDITED and not attack.hides_picture else PAIR[:1]
            yield Point(subject, "attack", name, views=views, attack=name, lacks=lacks)


def quantization(options: Options, subjects: Subjects) -> Iterator[Point]:
    """The adapter merged into its model, with rounded weights."""
    lacks = {} if find_spec("bitsandbytes") else {"nf4": "bitsandbytes is not installed (pip install -e '.[quant]')"}
    for name in ROUNDINGS:
        yield Point(subjects[AUDITED], "quantization", name, quantization=name, lacks=lacks.get(name, ""))


def scaling(options: Options, subjects: Subjects) -> Iterator[Point]:
    """The adapter scaled down and up."""
    for scale in SCALES:
        yield Point(subjects[AUDITED], "scaling", f"{scale:g}", at=scale, views=(*PAIR, "retain"), scale=scale)


def sampling(options: Options, subjects: Subjects) -> Iterator[Point]:
    """Several samples of each harmful question at each temperature; at 0 one, because all would be the same."""
    for subject in subjects.values():
        for temperature in TEMPERATURES if not subject.attack else ():
            name, samples = f"{temperature:g}", SAMPLES if temperature else 1
            yield Point(subject, "sampling", name, temperature, PAIR[:1], temperature=temperature, samples=samples)


def looks_inside(options: Options, subjects: Subjects) -> Iterator[Point]:
    """One point for each model, at which its knowledge is measured and not its responses."""
    for subject in subjects.values():
        if not subject.attack:
            yield Point(subject, "inside", "inside", views=PAIR[:1], inside=True)


def relearning(options: Options, subjects: Subjects) -> Iterator[Point]:
    """The adapter after each number of steps of plain fine-tuning; likewise the controls tuned and never_knew."""
    protocol = options.protocol
    for attacker, how in protocol.attackers.items():
        group, file = f"{RELEARN}{attacker}", options.data.file_of(how.data)
        lacks = "" if file.is_file() else f"{file} is not there"
        for subject in subjects.values():
            for seed in protocol.seeds_of(attacker) if subject.relearned else ():
                training = subject.folder / group / f"seed-{seed}"
                for step in protocol.steps:
                    at = Relearned(attacker, seed, step, training)
                    yield Point(subject, group, f"{seed}-{step}", step, PAIR[:1], relearned=at, lacks=lacks)


# The points of each action, in addition to the references. Relearning comes early: once the trainings are done, several
# processes can measure their points.
PARTS: dict[str, Callable[[Options, Subjects], Iterator[Point]]] = {
    "modality": references,
    "inside": looks_inside,
    "relearn": relearning,
    "attacks": attacks,
    "sampling": sampling,
    "quantize": quantization,
    "scale": scaling,
}


def points_of(
    actions: Iterable[str], options: Options, subjects: Subjects, attacked: Collection[str] = ATTACKS
) -> list[Point]:
    """The points that some actions measure; attacks are limited to the names in `attacked`."""
    chosen = dict.fromkeys(("modality", *(PARTS if "all" in actions else actions)))
    judged_by = options.judged_by
    points = [replace(point, judged_by=judged_by) for action in chosen for point in PARTS[action](options, subjects)]
    return [point for point in points if point.group != "attack" or point.name in attacked]


class Effort(NamedTuple):
    """The number of points, and the cost of the points that are left."""

    points: int = 0
    left: int = 0
    responses: int = 0
    read: int = 0  # items read by attacks, by measures inside, and in relearning (where each counts three times)


def add_up(efforts: Iterable[Effort]) -> Effort:
    """The sum of efforts."""
    return Effort(*map(sum, zip(*efforts, strict=True)))


class Plan:
    """The cost of points that can be measured here."""

    def __init__(self, points: list[Point], options: Options) -> None:
        self.options, self.data = options, read_records(options.val_file)
        self.results = {point: read_point(point) for point in points}
        self.asked = lru_cache(lambda view, n: len(build_requests(self.data, options.selection((view,), n))))
        self.chosen = options.selection(PAIR[:1], 1).records(self.data)

    def responses(self, point: Point) -> int:
        """The number of responses that a point asks for."""
        return 0 if point.inside else sum(self.asked(view, point.samples) for view in point.views)

    def by_group(self) -> dict[tuple[str, str], Effort]:
        """The effort by model (`audited`, `controls`) and group; `read` includes the trainings that are left."""
        efforts: dict[tuple[str, str], Effort] = defaultdict(Effort)
        trained, questions = set(), self.asked("forget", 1)
        for point, result in self.results.items():
            left, read = result is None, 0
            if left and point.inside:
                layers = load_config(point.subject.model_path).get_text_config().num_hidden_layers
                read = sum(measure.passes(questions, layers) for measure in inside.find_measures())
            elif left and point.attack:
                read = ATTACKS[point.attack].passes(len(self.chosen), questions // len(self.chosen))
            elif left and point.relearned and point.relearned.training not in trained:
                trained.add(point.relearned.training)
                read = 3 * self.options.protocol.items * max(self.options.protocol.steps)
            who = AUDITED if point.subject.name == AUDITED else "controls"
            effort = Effort(1, int(left), self.responses(point) * left, read)
            efforts[who, point.group] = add_up((efforts[who, point.group], effort))
        return efforts

    def minutes(self) -> float | None:
        """The minutes left on one process at the speed so far; an item that is read counts as a response.

        None until a point with responses is measured.
        """
        seconds = {point: result["seconds"] for point, result in self.results.items() if result and not point.inside}
        if not seconds:
            return None
        left = add_up(self.by_group().values())
        return (left.responses + left.read) * sum(seconds.values()) / sum(map(self.responses, seconds)) / 60

    def time_left(self) -> str:
        """One line on the time that is left."""
        if (minutes := self.minutes()) is None:
            return "The time left is known once the first point is measured; a dry run then shows it."
        shared = "several processes share this time"
        return f"About {minutes:.0f} minutes on one process at the speed so far; {shared}."

    def judging(self, panel: Panel) -> Iterator[tuple[str, str, Spent]]:
        """The judges' calls and tokens for the points that are left, if responses are as long as the data file's."""
        records, raw = [self.data.records[n] for n in self.chosen], [self.data.raw[n] for n in self.chosen]
        queries = imagine_queries(DataFile(self.data.path, records, raw), refusals=False)
        wanted: dict[str, int] = defaultdict(int)
        for point, result in self.results.items():
            for view in point.views if result is None and not point.inside else ():
                metrics = [metric for metric, key in ASKED.items() if METRICS[key].view == view]
                for metric in metrics + (["rr"] if point.refusals and view != "forget" else []):
                    wanted[metric] += self.asked(view, point.samples)
        totals: dict[tuple[str, str], Spent] = defaultdict(Spent)
        for metric, title, spent in panel.foresee(queries):
            totals[metric, title] += spent
        for (metric, title), total in totals.items():
            times = wanted[metric] / total.calls if total.calls else 0
            yield metric, title, Spent(*(round(part * times) for part in astuple(total)))


def show_plan(points: list[Point], options: Options, panel: Panel) -> None:
    """Print the points that are left and their cost, group by group, without loading a model."""
    plan = Plan(points, options)
    efforts = plan.by_group()
    table = Table("of", "group", "points", "left", "responses", "items read")
    for (who, group), effort in efforts.items():
        table.add_row(who, group, *map(str, effort))
    table.add_section()
    table.add_row("all", "", *map(str, add_up(efforts.values())))
    Console().print(table)
    print(
        "Left: responses to draw, and items to read for attacks that learn, measures inside the model, and relearning "
        "(there each counts three times)."
    )
    print(plan.time_left())
    if panel.served:
        show_costs(plan.judging(panel), panel.prices, share=options.judging.price_share)
