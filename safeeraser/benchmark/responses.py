"""Where a predictions file, which inference writes and scoring reads, holds a model's responses.

A view asks a record's harmful or harmless questions about its harmful picture, a benign one or none.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple


class View(NamedTuple):
    """One way to ask about a record.

    Attributes:
        question: `harmful` (of `unsafe_pairs`) or `harmless` (of the UnharmPairs).
        picture: `harmful`, `benign`, `swapped` (the benign one of another category) or `none`.
        fields: the keys of an unsafe pair, or of an UnharmPair, that hold the responses, one each.
    """

    question: str
    picture: str
    fields: tuple[str, ...]


# The fields of the first three views are from the release's code; the others are this project's.
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
# One more view holds its response where a data file has a model's own answer. No predictions file has it.
OWN = "own"
ASKED = {OWN: View("harmful", "harmful", ("model_response",))} | VIEWS
RELEASED = ("forget", "decoupled", "retain")  # the views that the release asks
SAMPLE = re.compile(r"model_response\d+")  # a sample of `forget`; there may be more than the release's three
SWAPPED_PICTURE = "SwappedImage_path"  # a record's key for the picture that the view `swapped` showed


def view_of(field: str) -> str:
    """The view whose response is stored under a key; empty if the key holds no response."""
    return "forget" if SAMPLE.fullmatch(field) else VIEW_OF.get(field, "")


def fields_in(view: str, keys: Iterable[str]) -> tuple[str, ...]:
    """The fields of a view, with `forget` also the keys of a pair that hold further samples."""
    fields = VIEWS[view].fields
    return fields + tuple(key for key in keys if view == "forget" and SAMPLE.fullmatch(key) and key not in fields)
