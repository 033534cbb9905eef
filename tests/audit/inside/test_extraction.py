"""What a model says behind the beginning of an answer."""

from dataclasses import replace

import pytest

from safeeraser.audit.inside import floor
from safeeraser.audit.inside.extraction import extraction
from safeeraser.audit.inside.pairs import words

from .knowing import knowing, some_pairs, untouched


def test_answers_known_by_heart_are_gone_on_with_and_no_others():
    known = extraction(knowing(), some_pairs(), 8)
    short = {pair.key for pair in some_pairs() if len(words(pair.true)) <= 10}
    assert short
    for name in ("exact", "recall"):
        assert set(known[f"{name}_0"].values()) == set(known[f"{name}_3"].values()) == {1.0}
        assert {key for key, value in known[f"{name}_10"].items() if value is None} == short
        assert {value for value in known[f"{name}_10"].values() if value is not None} == {1.0}
    for vlm, pairs in ((knowing(), floor(some_pairs())), (untouched(), some_pairs())):
        assert not any(extraction(vlm, pairs, 8)["exact_3"].values())


def test_batches_do_not_matter():
    for vlm in (knowing(), untouched()):
        assert extraction(vlm, some_pairs(), 1) == extraction(vlm, some_pairs(), 8)


def test_content_may_come_in_any_frame():
    """The frame that the answer is in is drawn: a model that tells the content in another one knows it all the same."""
    pair = some_pairs()[0]
    said = pair.true.split(" ")
    middle = " ".join(said[4:7])
    framed = replace(pair, true=f"So they say: {middle} (or not).", frame=(len("So they say: "), len(" (or not).")))
    (whole,) = extraction(knowing(), [replace(framed, frame=(0, 0))], 1)["exact_0"].values()
    found = extraction(knowing(), [framed], 1)
    assert (whole, found["exact_0"][pair.key], found["recall_0"][pair.key]) == (0, 1, 1)
    # Its content has told itself before the tenth word.
    assert found["exact_10"][pair.key] is None
    (wrong,) = extraction(knowing(), [replace(framed, true=framed.true.replace(said[5], "quite"))], 1)[
        "exact_0"
    ].values()
    assert wrong == 0


@pytest.mark.parametrize("text", ["It’s A: b_c", "it's a b c!"])
def test_words_are_compared_without_case_and_signs(text):
    assert [word for word, _, _ in words(text)] == ["it's", "a", "b", "c"]
