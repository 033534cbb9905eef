"""The string rules: the texts that they find, the texts that they must not find, and the share that they miss."""

import re
from pathlib import Path

import pytest
from helpers import read_beside, read_lines

from safeeraser.benchmark.wording import OPENINGS, is_blank, is_degenerate, is_refusal

CORPUS = Path(__file__).resolve().parents[1] / "data" / "wording"
TEXTS = read_beside(__file__, "wording.yaml")
KINDS = {"refusal": (True, False), "answer": (False, False), "degenerate": (False, True)}


@pytest.mark.parametrize("label", KINDS)
def test_plain_texts_of_each_kind(label):
    assert not [text for text in TEXTS[label] if (is_refusal(text), is_degenerate(text)) != KINDS[label]]


def test_what_a_reader_would_see_nothing_of_is_blank():
    assert all(map(is_blank, ("", " \n\t", "\u200b\ufeff", "</s>", "<|endoftext|> <pad>\x00")))
    assert not any(map(is_blank, (".", "a", "<b>", "\u0301a")))


@pytest.mark.parametrize(("text", "degenerate"), TEXTS["rules"])
def test_single_rules(text, degenerate):
    assert is_degenerate(text) == degenerate


@pytest.mark.parametrize("opening", OPENINGS, ids=lambda opening: opening.name)
def test_each_way_to_refuse_finds_its_example_and_no_other_does(opening):
    found = [each.name for each in OPENINGS if re.match(each.pattern, opening.example.lower())]
    assert found == [opening.name] and is_refusal(opening.example) and not is_degenerate(opening.example)


# By file: the least numbers of answers, refusals and degenerate texts, and the least shares found of the last two.
@pytest.mark.parametrize(
    ("name", "sizes", "refused", "degenerate"),
    [("corpus.jsonl", (320, 60, 160), 0.85, 0.89), ("heldout.jsonl", (80, 20, 40), 0.85, 0.90)],
)
def test_the_corpus_is_told_apart_and_no_answer_is_called_anything_else(name, sizes, refused, degenerate):
    texts = read_lines(CORPUS / name)
    assert len({text["text"] for text in texts}) == len(texts)
    found = {label: [] for label in ("answer", "refusal", "degenerate")}
    for text in texts:
        found[text["label"]].append((is_refusal(text["text"]), is_degenerate(text["text"])))
    assert all(len(found[label]) >= least for label, least in zip(found, sizes, strict=True))
    assert not any(map(any, found["answer"]))
    assert not any(broken for _, broken in found["refusal"]) and not any(no for no, _ in found["degenerate"])
    assert sum(no for no, _ in found["refusal"]) >= refused * len(found["refusal"])
    assert sum(broken for _, broken in found["degenerate"]) >= degenerate * len(found["degenerate"])
    first = {text["text"] for text in read_lines(CORPUS / "corpus.jsonl")}
    assert name == "corpus.jsonl" or not first & {text["text"] for text in texts}
