"""The points of an audit: each is one model, asked in one way."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from safeeraser import model as models
from safeeraser.audit.options import Options
from safeeraser.audit.relearn import adapter_after
from safeeraser.audit.subjects import AUDITED, Subject, Subjects
from safeeraser.benchmark.records import DataFile, read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.errors import BadInput
from safeeraser.infer.attacks import ATTACKS, Attack
from safeeraser.infer.requests import build_requests

SCALES = (0.25, 0.5, 0.75, 1.25, 1.5)  # 1 is the clean point, and 0 the untouched model
TEMPERATURES, SAMPLES = (0.0, 0.7, 1.0, 1.3), 10
CROSSED = tuple(view for view in VIEWS if view != "swapped")  # three pictures (one of them none) by two questions
PAIR = ("forget", "decoupled")  # the harmful question on both pictures: ASR, RR, SARR


@dataclass(frozen=True)
class Relearned:
    """On what a model was trained further, by which seed, for how many optimizer steps, and where its training lies."""

    attacker: str
    seed: int
    step: int
    training: Path

    @property
    def adapter(self) -> Path:
        """What it came to; not there where the training ended before."""
        return adapter_after(self.training, self.step)


@dataclass(frozen=True)
class Point:
    """One model, asked in one way.

    Attributes:
        group: what is varied; a curve or a table of the card.
        at: where on a curve.
        temperature, samples: where they are not the audit's own.
        inside: whether what it knows is measured rather than what it says.
        lacks: what keeps it from being measured here.
    """

    subject: Subject
    group: str
    name: str
    at: float | None = None
    views: tuple[str, ...] = PAIR
    attack: str | None = None
    scale: float = 1.0
    quantization: str = "none"
    temperature: float | None = None
    samples: int | None = None
    refusals: bool = False
    relearned: Relearned | None = None
    inside: bool = False
    lacks: str | None = None

    @property
    def attack_code(self) -> str | None:
        """What its attack is known by; a point measured before a change to it is measured anew."""
        return ATTACKS[self.attack].code if self.attack else None

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self.subject.folder / self.group / self.name

    def kept(self, options: Options) -> Path:
        """Where what is found of it lies: of what it said, by who judged, since audits with other judges share it."""
        return self.folder if self.inside else self.folder / options.judged_key

    @property
    def model_path(self) -> str:
        """The model that its adapter belongs to."""
        return self.subject.whole if self.relearned else self.subject.model_path

    @property
    def adapter(self) -> Path | None:
        """The adapter that is on the model."""
        return self.relearned.adapter if self.relearned else self.subject.adapter

    @property
    def title(self) -> str:
        """How it is named in logs and results."""
        of = "" if self.subject.name == AUDITED else f"{self.subject.name}: "
        return f"{of}{self.group} {self.name}"


def references(options: Options, everyone: Subjects) -> Iterator[Point]:
    """What every other point is held against: the adapter and its controls as they are, in all six views."""
    prepared = models.load_preprocessor(options.model_path)
    for subject in everyone.values():
        lacks = None
        if subject.attack and not prepared.takes_system:
            lacks = f"the chat template of {options.model_path} writes no system text"
        yield Point(subject, "clean", "clean", views=CROSSED, attack=subject.attack, refusals=True, lacks=lacks)


def attacks(options: Options, everyone: Subjects) -> Iterator[Point]:
    """The adapter under each attack, and the controls, since an attack may break what it was to bring back."""
    prepared, data = models.load_preprocessor(options.model_path), read_records(options.val_file)
    for name, attack in ATTACKS.items():
        lacks = attack.lacks(prepared) or _too_few_to_show(attack, data, options)
        for subject in everyone.values():
            if attack.control or subject.attack or (attack.adapter and not subject.adapter):
                continue
            # Where nothing of the picture is left to see, the benign one is asked nothing else.
            own = PAIR if subject.name == AUDITED and not attack.hides_picture else PAIR[:1]
            yield Point(subject, "attack", name, views=own, attack=name, lacks=lacks)


def _too_few_to_show(attack: Attack, data: DataFile, options: Options) -> str | None:
    """Why an attack by example has none for some question, where it has not."""
    try:
        build_requests(data, options.selection(PAIR[:1]), attack if attack.context else None)
    except BadInput as error:
        return str(error)
    return None


def quantization(options: Options, everyone: Subjects) -> Iterator[Point]:
    """The merged weights rounded."""
    lacks = {"nf4": None if find_spec("bitsandbytes") else "bitsandbytes is not installed (pip install -e '.[quant]')"}
    for name in models.ROUNDINGS:
        yield Point(everyone[AUDITED], "quantization", name, quantization=name, lacks=lacks.get(name))


def scaling(options: Options, everyone: Subjects) -> Iterator[Point]:
    """More and less of the adapter."""
    for scale in SCALES:
        audited = everyone[AUDITED]
        yield Point(audited, "scaling", f"{scale:g}", at=scale, views=(*PAIR, "retain"), scale=scale)


def sampling(options: Options, everyone: Subjects) -> Iterator[Point]:
    """Several samples of each harmful question, by temperature; at 0 they are all the same, so there is one."""
    for subject in everyone.values():
        for temperature in TEMPERATURES if not subject.attack else ():
            name, count = f"{temperature:g}", SAMPLES if temperature else 1
            yield Point(subject, "sampling", name, temperature, PAIR[:1], temperature=temperature, samples=count)


def inside(options: Options, everyone: Subjects) -> Iterator[Point]:
    """What each model knows beyond what it says."""
    for subject in everyone.values():
        if not subject.attack:
            yield Point(subject, "inside", "inside", views=PAIR[:1], inside=True)


def relearning(options: Options, everyone: Subjects) -> Iterator[Point]:
    """The adapter after some steps of plain fine-tuning; so is who never knew, and who forgot nothing."""
    protocol = options.protocol
    for attacker, how in protocol.attackers.items():
        file = options.data.file_of(how.data)
        lacks = None if file.is_file() else f"{file} is not there"
        for subject in everyone.values():
            for seed in protocol.seeds_of(attacker) if subject.name in (AUDITED, "tuned", "never_knew") else ():
                group = f"relearn_{attacker}"
                for step in protocol.steps:
                    at = Relearned(attacker, seed, step, subject.folder / group / f"seed-{seed}")
                    name = f"{seed}-{step}"
                    yield Point(subject, group, name, at=step, views=PAIR[:1], relearned=at, lacks=lacks)


# What each action measures. Relearning comes early in the whole: what is trained first, several processes can measure.
ACTIONS: dict[str, tuple[Callable[[Options, Subjects], Iterator[Point]], ...]] = {
    "modality": (references,),
    "inside": (references, inside),
    "relearn": (references, relearning),
    "attacks": (references, attacks),
    "sampling": (references, sampling),
    "quantize": (references, quantization),
    "scale": (references, scaling),
}
ACTIONS["all"] = tuple(dict.fromkeys(part for parts in ACTIONS.values() for part in parts))


def points_of(
    actions: Iterable[str], options: Options, everyone: Subjects, attacked: Collection[str] = ATTACKS
) -> list[Point]:
    """What some actions measure; of the attacks those of `attacked` alone."""
    parts = dict.fromkeys(part for action in actions for part in ACTIONS[action])
    points = [point for part in parts for point in part(options, everyone)]
    return [point for point in points if point.group != "attack" or point.name in attacked]
