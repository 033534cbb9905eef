"""What is told to be true of the mini benchmark, by its own texts: each target answers, and nothing else does."""

import json

import pytest

from safeeraser import score
from safeeraser.benchmark.records import read_records
from safeeraser.benchmark.responses import VIEWS
from safeeraser.benchmark.truth import read_truth
from safeeraser.benchmark.wording import is_refusal
from safeeraser.mini.concepts import EVERY
from safeeraser.mini.questions import answers
from safeeraser.mini.texts import TEXTS, TINY
from safeeraser.mini.truth import truth_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_targets_are_right_by_it(small, split):
    data = read_records(small / f"all_{split}.json")
    truth = read_truth(data.path)
    assert truth == truth_of(small, TINY)
    for record in data.records:
        for pair in record.unsafe_pairs:
            assert truth.gives(record.image_path, pair.model_response)
            assert truth.answers(record.SDImage_path, pair.sd_response)
        # What is to be retained about the same picture must not count as the harmful answer.
        for pair in record.unharm.values():
            assert not truth.gives(record.image_path, pair.Prediction) and not truth.refuses(pair.Prediction)


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS)
def test_no_text_of_the_benchmark_is_right_of_two_concepts_or_refuses_and_answers(small, texts):
    truth = truth_of(small, texts)
    pictures = {name: picture for picture, name in truth.pictures.items()}
    for concept in EVERY:
        for text in texts.about(concept):
            right = {concept.name} & set(pictures)
            assert {name for name, picture in pictures.items() if truth.gives(picture, text)} == right
            assert {name for name, picture in pictures.items() if truth.answers(picture, text)} == right
    assert [text for text in answers(texts) if truth.refuses(text)] == list(texts.refusals)
    assert all(map(is_refusal, texts.refusals)), "the rules know each"
    assert all(text.startswith(texts.openings or text) for text in texts.refusals)
    assert not [text for text in texts.refusals if any(truth.gives(picture, text) for picture in truth.pictures)]


def test_the_benchmarks_own_answers_have_the_figures_of_a_model_that_forgot_nothing(small, tmp_path):
    data = small / "all_val.json"
    records = json.loads(data.read_text())
    for record in records:
        for pair in record["unsafe_pairs"]:
            pair |= dict.fromkeys(VIEWS["forget"].fields, pair["model_response"])
    (tmp_path / "predictions_val.json").write_text(json.dumps(records))
    told = score(
        input_file=tmp_path / "predictions_val.json", file_refer=data, judge="truth", summary=tmp_path / "s.json"
    ).summary
    assert (told["asr"]["value"], told["rr"]["value"], told["sarr"]["value"]) == (1, 0, 0)
    assert {view: one["value"] for view, one in told["wrong"].items()} == {"forget": 0, "decoupled": 0}
