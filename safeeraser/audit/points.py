"""The points of an audit: each is one model, asked in one way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from safeeraser import model as models
from safeeraser.audit.further import RELEARNED, adapter_after
from safeeraser.audit.options import Options
from safeeraser.benchmark.responses import VIEWS
from safeeraser.infer.attacks import ATTACKS

SCALES = (0.25, 0.5, 0.75, 1.25, 1.5)  # 1 is the clean point, and 0 the untouched model
CROSSED = tuple(view for view in VIEWS if view != "swapped")  # three pictures (one of them none) by two questions
PAIR = ("forget", "decoupled")  # the harmful question on both pictures: ASR, RR, SARR


@dataclass(frozen=True)
class Point:
    """One model, asked in one way.

    Attributes:
        group: what is varied; a curve or a table of the card.
        adapter: none is the untouched model.
        at: where on a curve.
        relearned: the view that its adapter was trained on further.
        lacks: what keeps it from being measured here.
    """

    group: str
    name: str
    adapter: Path | None
    at: float | None = None
    views: tuple[str, ...] = PAIR
    attack: str | None = None
    scale: float = 1.0
    quantization: str = "none"
    refusals: bool = False
    relearned: str | None = None
    lacks: str | None = None

    @property
    def attack_code(self) -> str | None:
        """What its attack is known by; a point measured before a change to it is measured anew."""
        return ATTACKS[self.attack].code if self.attack else None

    @property
    def title(self) -> str:
        """How it is named in logs and results."""
        return f"{self.group} {self.name}"


def references(options: Options) -> list[Point]:
    """What every other point is held against: the adapter as it is, in all six views, and the untouched model."""
    return [
        Point("clean", "clean", options.checkpoint_path, views=CROSSED, refusals=True),
        scaled(options, 0.0),
    ]


def attacks(options: Options) -> list[Point]:
    """The adapter under each attack, and the untouched model, since an attack may break what it was to bring back."""
    points = []
    for name, attack in ATTACKS.items():
        # Where nothing of the picture is left to see, the benign one is asked nothing else.
        views = PAIR[:1] if attack.hides_picture else PAIR
        points.append(Point("attack", name, options.checkpoint_path, views=views, attack=name))
        points.append(Point("attack_vanilla", name, None, views=PAIR[:1], attack=name))
    return points


def quantization(options: Options) -> list[Point]:
    """The merged weights rounded."""
    lacks = {"nf4": None if find_spec("bitsandbytes") else "bitsandbytes is not installed (pip install -e '.[quant]')"}
    return [
        Point("quantization", name, options.checkpoint_path, quantization=name, lacks=lacks.get(name))
        for name in models.ROUNDINGS
    ]


def scaled(options: Options, scale: float) -> Point:
    """So much of the adapter."""
    return Point("scaling", f"{scale:g}", options.checkpoint_path, at=scale, views=(*PAIR, "retain"), scale=scale)


def scaling(options: Options) -> list[Point]:
    """More and less of the adapter."""
    return [scaled(options, scale) for scale in SCALES]


def relearning(options: Options, view: str) -> list[Point]:
    """The adapter after some steps of plain fine-tuning on a view."""
    return [
        Point(f"relearn_{view}", str(step), adapter_after(options, view, step), at=step, relearned=view)
        for step in options.steps
    ]


# What each action measures. Relearning comes early in the whole: what is trained first, several processes can measure.
ACTIONS: dict[str, tuple[Callable[[Options], list[Point]], ...]] = {
    "modality": (references,),
    "relearn": (references, *(partial(relearning, view=view) for view in RELEARNED)),
    "attacks": (references, attacks),
    "quantize": (references, quantization),
    "scale": (references, scaling),
}
ACTIONS["all"] = tuple(dict.fromkeys(part for parts in ACTIONS.values() for part in parts))
