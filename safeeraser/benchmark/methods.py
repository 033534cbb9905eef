"""The names of methods: the config files in config/forget_loss/, and NAME+pd for each without prompt decouple; and how
a weight is shown."""

from collections.abc import Mapping

from safeeraser.benchmark.files import CONFIG, read_text

PD = "+pd"
# Losses that also run the untouched model. The training code's `LOSSES` says so, but importing it loads torch.
WITH_REFERENCE = frozenset({"kl", "npo", "dpo", "undial", "jsd", "states", "reroute", "distance"})


def pages() -> list[str]:
    """The names of the config files in config/forget_loss/."""
    return sorted(file.stem for file in (CONFIG / "forget_loss").glob("*.yaml"))


def to_decouple() -> dict[str, str]:
    """The methods to which prompt decouple can be added, keyed by the name of the combination."""
    texts = {name: read_text(CONFIG / "forget_loss" / f"{name}.yaml") for name in pages()}
    return {f"{name}{PD}": name for name, text in texts.items() if "decoupled:" not in text}


def shown_weight(weight: float | Mapping[str, float]) -> str:
    """A term's weight as readable text; settings hold it as a number, a dual variable or a ramp."""
    if isinstance(weight, Mapping) and "to" in weight:
        return f"evenly from {weight['from']:g} to {weight['to']:g}"
    if isinstance(weight, Mapping):
        return f"dual (at most {weight['at_most']:g}, rate {weight['rate']:g}, from {weight['start']:g})"
    return f"{weight:g}"
