"""What methods are called: the pages of config/forget_loss/, and each that has no prompt decouple with it, NAME+pd; and
how a weight is shown."""

from collections.abc import Mapping

from safeeraser.benchmark.files import CONFIG, read_text

PD = "+pd"
# Losses that the untouched model is run for. `LOSSES` of training says so of each, but to read it there takes torch.
WITH_REFERENCE = frozenset({"kl", "npo", "dpo", "undial", "jsd", "states", "reroute", "distance"})


def pages() -> list[str]:
    """The names of the pages."""
    return sorted(file.stem for file in (CONFIG / "forget_loss").glob("*.yaml"))


def to_decouple() -> dict[str, str]:
    """The methods that prompt decouple can stand beside, by what they are then called."""
    texts = {name: read_text(CONFIG / "forget_loss" / f"{name}.yaml") for name in pages()}
    return {f"{name}{PD}": name for name, text in texts.items() if "decoupled:" not in text}


def shown_weight(weight: float | Mapping[str, float]) -> str:
    """A term's weight as settings hold it, a number, a dual variable or a ramp, for people to read."""
    if isinstance(weight, Mapping) and "to" in weight:
        return f"evenly from {weight['from']:g} to {weight['to']:g}"
    if isinstance(weight, Mapping):
        return f"dual (at most {weight['at_most']:g}, rate {weight['rate']:g}, from {weight['start']:g})"
    return f"{weight:g}"
