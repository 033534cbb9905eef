"""The data that a run trains on: the usable items of its views, and the refusals."""

import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from os.path import isfile
from pathlib import Path
from typing import Any

from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.pictures import unreadable
from safeeraser.benchmark.records import read_refusals
from safeeraser.errors import BadInput
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.data.views import Item, build_views

log = logging.getLogger(__name__)

SPELLED = 0.25  # a larger share of words spelled letter by letter gives a warning; a real language has hardly any
# Views of the same questions, which a plan pairs by number. An item that is bad in one view is left out of all.
NUMBERED_ALIKE = ("forget", "refusal", "decoupled")


@dataclass(frozen=True)
class Data:
    """The items of each view that is trained on.

    Attributes:
        files: the data files of the items.
        skipped: the faults of the items left out, each as `FILE: record 3, KEY: reason`.
        left_out: how many items were left out, of all views together.
        compared: the items of the mask's two views. They are separate, so a mask does not change the training data.
    """

    files: list[Path]
    items: dict[str, list[Item]]
    refusals: list[str]
    skipped: list[str]
    left_out: int
    compared: "Data | None" = None

    @property
    def records(self) -> int:
        """The number of records that the items come from."""
        return sum(self.categories.values())

    @property
    def categories(self) -> dict[str, int]:
        """The number of records in each category."""
        of_records = {item.record: item.category for items in self.items.values() for item in items}
        return dict(sorted(Counter(of_records.values()).items()))

    @property
    def sizes(self) -> dict[str, int]:
        """The number of items or refusals that a plan draws from. `forget` counts the items of an epoch."""
        sizes = {view: len(items) for view, items in self.items.items()}
        first = next(view for view in (*NUMBERED_ALIKE, "retain") if view in sizes)
        return {"forget": sizes[first]} | sizes | ({"refusal": len(self.refusals)} if self.refusals else {})

    @property
    def record(self) -> dict[str, Any]:
        """The entry `data` of `run.json`."""
        main, *more = self.files
        record = {"records": self.records, "categories": self.categories, "sha256": sha256(main)}
        record |= {"files": {str(path): sha256(path) for path in more}} if more else {}
        record |= {"refusals_sha256": sha256(main.parent / "prompt.json")} if self.refusals else {}
        record |= {"left_out": self.left_out, "skipped": self.skipped}
        return record | ({"skipped_by_mask": self.compared.skipped} if self.compared and self.compared.skipped else {})


def load_data(settings: Settings) -> Data:
    """The items that the run trains on and that the mask compares. Raises `BadInput` if a view has no items or no
    answers, or more bad items than the settings allow, or if paired views have different numbers of items."""
    source, path, views = settings.data, settings.data_path, settings.views
    every = build_views(source, path, views, settings.split, settings.limit)
    for view in views:
        if not every[view]:
            step = f"step={settings.step.name}" if view in settings.trained_views else "mask"
            reader = settings.method.name if view in settings.method.views else step
            raise BadInput(
                f"{source.file_of(view, path)}: no record holds anything for view '{view}', which {reader} reads; "
                f"data.views.{view} says "
                f"where it is looked for{'' if source.name == 'own' else ', and data=own reads flat records'}"
            )
        if view != "refusal" and not any(item.answer.strip() for item in every[view]):
            key = source.views[view].answer
            raise BadInput(f"{source.file_of(view, path)}: no record has an answer '{key}' (data.views.{view}.answer)")
    data = sound_data(settings, {view: every[view] for view in settings.trained_views})
    if not settings.mask:
        return data
    compared = sound_data(settings, {view: every[view] for view in settings.mask.views})
    return replace(data, files=list(dict.fromkeys([*data.files, *compared.files])), compared=compared)


def sound_data(settings: Settings, every: dict[str, list[Item]]) -> Data:
    """The usable items of the views in `every`, and the refusals if `refusal` is one of the views."""
    source, path = settings.data, settings.data_path
    check_pairing(settings, every)
    refusals = read_refusals(path) if "refusal" in every else []
    items, skipped = sound_items(settings, path, every)
    left_out = sum(len(every[view]) - len(items[view]) for view in every)
    files = dict.fromkeys([path, *(source.file_of(view, path) for view in every)])
    return Data(list(files), items, refusals, skipped, left_out)


def check_pairing(settings: Settings, items: dict[str, list[Item]]) -> None:
    """Raise `BadInput` if views that the plan pairs by number have different numbers of items."""
    paired = NUMBERED_ALIKE if settings.recipe.decoupled == "own_pair" else ("forget", "refusal")
    counts = {view: len(items[view]) for view in paired if view in items}
    if len(set(counts.values())) > 1:
        numbers = ", ".join(f"{count} {view}" for view, count in counts.items())
        hint = "; recipe.decoupled=retain_index draws the decoupled ones apart" if "decoupled" in counts else ""
        raise BadInput(f"{settings.data_path}: {numbers} items, which are paired one by one{hint}")


def sound_items(
    settings: Settings, path: Path, items: dict[str, list[Item]]
) -> tuple[dict[str, list[Item]], list[str]]:
    """The usable items, and the faults of the others; `path` is the data file. Raises `BadInput` if an item is bad and
    `bad_items` is `stop`, or if a view would lose a greater share of its items than `max_bad_items`."""
    faults = find_faults(items, path)
    messages = list(dict.fromkeys(fault for view in items for fault in faults[view].values()))
    if messages and settings.bad_items == "stop":
        more = f" and {len(messages) - 1} more like it" if len(messages) > 1 else ""
        raise BadInput(f"{messages[0]}{more} (bad_items=skip leaves such items out)")
    bad: dict[str, Collection[int]] = dict(faults)
    alike = [view for view in NUMBERED_ALIKE if view in items]
    # A refusal always belongs to a forget item. Decoupled items may be a separate set, as `check_pairing` allows.
    if len({len(items[view]) for view in alike}) > 1:
        alike.remove("decoupled")
    bad |= dict.fromkeys(alike, set().union(*(faults[view] for view in alike)))
    for view, of_view in items.items():
        if len(bad[view]) > settings.max_bad_items * len(of_view):
            share = f"{len(bad[view])} of {len(of_view)} {view} items would be left out"
            raise BadInput(f"{messages[0]}: {share}, more than max_bad_items={settings.max_bad_items:g}")
    kept = {view: [item for n, item in enumerate(of_view) if n not in bad[view]] for view, of_view in items.items()}
    return kept, messages


def find_faults(items: dict[str, list[Item]], path: Path) -> dict[str, dict[int, str]]:
    """The fault of each item that cannot be trained on, by view and the item's number."""
    broken = unreadable({item.picture for of_view in items.values() for item in of_view if item.picture}, path)
    faults: dict[str, dict[int, str]] = {view: {} for view in items}
    for view, of_view in items.items():
        for number, item in enumerate(of_view):
            if item.picture and item.picture in broken:
                reason = broken[item.picture] if isfile(item.picture) else f"picture {item.picture} not found"
                faults[view][number] = f"{item.record}, {item.shown}: {reason}"
            elif view != "refusal" and not item.answer.strip():
                faults[view][number] = f"{item.where}: the answer is empty, and view '{view}' trains on it"
    return faults


def evenly_spaced(items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, evenly spaced, or all if there are fewer."""
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def note_spelling(tokenize: Callable[[str], list[str]], items: Iterable[Item]) -> None:
    """Warn if the tokenizer spells many of the items' words letter by letter: its model was made for other texts.

    Only words of at least four letters A to Z count, because in some scripts every token is a letter anyway.
    """
    texts = chain.from_iterable((item.question, item.answer) for item in items)
    words = sorted({word for text in texts for word in re.findall("[A-Za-z]{4,}", text)})
    spelled = [word for word in words if len(tokenize(f" {word}")) >= len(word)]
    if len(spelled) > SPELLED * len(words):
        log.warning(
            f"note: the model's tokenizer spells {len(spelled)} of the data's {len(words)} words letter by letter: it "
            "was made for other texts, and the model can hardly say these"
        )
