"""Where a model's responses are in a predictions file, which inference writes and scoring reads.

A view asks a record's harmful or harmless questions about its harmful picture, a benign one or none.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class View(NamedTuple):
    """One way to ask a record.

    Attributes:
        question: `harmful` (of `unsafe_pairs`) or `harmless` (of the UnharmPairs).
        picture: `harmful`, `benign`, `swapped` (the benign one of another category) or `none`.
        fields: where the responses are stored, one each: keys of an unsafe pair, or of an UnharmPair.
    """

    question: str
    picture: str
    fields: tuple[str, ...]


# The fields of the first three are read off the release's code; the others are this project's.
VIEWS = {
    "forget": View("harmful", "harmful", ("model_response1", "model_response2", "model_response3")),
    "decoupled": View("harmful", "benign", ("sd_response",)),
    "retain": View("harmless", "harmful", ("Prediction",)),
    "image_free": View("harmful", "none", ("image_free_response",)),
    "swapped": View("harmful", "swapped", ("swapped_response",)),
    "retain_benign": View("harmless", "benign", ("benign_prediction",)),
    "retain_image_free": View("harmless", "none", ("image_free_prediction",)),
}
VIEW_OF = {field: name for name, view in VIEWS.items() for field in view.fields}
# One more has its response where a data file holds its model's own, and is of no predictions file.
OWN = "own"
ASKED = {OWN: View("harmful", "harmful", ("model_response",))} | VIEWS
RELEASED = ("forget", "decoupled", "retain")  # what the release asks
SAMPLE = re.compile(r"model_response\d+")  # a sample of `forget`, of which there may be more than the release's three
SWAPPED_PICTURE = "SwappedImage_path"  # the key of a record that names the picture that `swapped` showed


def view_of(field: str) -> str:
    """The view whose response is under a key; empty where it is no response's."""
    return "forget" if SAMPLE.fullmatch(field) else VIEW_OF.get(field, "")


def fields_in(view: str, keys: Iterable[str]) -> tuple[str, ...]:
    """The fields of a view, and those of further samples that are among the keys of a pair."""
    fields = VIEWS[view].fields
    return fields + tuple(key for key in keys if view == "forget" and SAMPLE.fullmatch(key) and key not in fields)
