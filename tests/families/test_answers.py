"""Greedy answers of eleven families letter by letter: batched, with an adapter, and merged."""

import pytest
from helpers import ran
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, GenerationConfig

from safeeraser.benchmark.files import read_json
from safeeraser.model.load import load_preprocessor
from safeeraser.model.turns import Turn

from .recorded import VARIED, answers, on, picture

pytestmark = pytest.mark.slow

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def test_greedy_answers_of_a_batch(family, tmp_path):
    assert answers(family, tmp_path / "p.json", "--batch_size", 6) == family.responses()


def test_greedy_answers_with_an_adapter(family, tmp_path):
    """The first record is asked, whose 12 items are the first 12 rows."""
    found = answers(family, tmp_path / "p.json", "--categories", "HateSpeech", "--checkpoint_path", family.adapter)
    assert found == family.responses(family.figures["with_adapter"])


@pytest.fixture(scope="module")
def merged(family, tmp_path_factory):
    """The family's adapter merged into its model."""
    out = tmp_path_factory.mktemp(family.name) / "merged"
    ran("safeeraser.model", "merge", family.adapter, out, "--model_path", family.path)
    return out


def files(folder):
    """The contents of a model's files, except its weights, its configuration and run.json."""
    left_out = (WEIGHTS, CONFIG, "run.json")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in left_out}


@on(*VARIED)
def test_a_merged_folder_is_read_by_plain_transformers(family, merged):
    """It has the files of its base. Its own weights, preprocessor and end tokens give the recorded answers exactly."""
    base = family.folder / "model"
    known = read_json(base / CONFIG)
    assert files(merged) == files(base) and read_json(merged / CONFIG) == {"torch_dtype": known["dtype"]} | known
    wanted, found = (load_file(folder / WEIGHTS) for folder in (base, merged))
    kinds = [{name: (value.dtype, value.shape) for name, value in each.items()} for each in (wanted, found)]
    assert kinds[0] == kinds[1]
    model, prepared = AutoModelForImageTextToText.from_pretrained(merged).eval(), load_preprocessor(str(merged))
    greedy = GenerationConfig.from_pretrained(merged, do_sample=False, max_new_tokens=24)
    for row, adapted in zip(family.rows, family.figures["with_adapter"], strict=False):
        inputs = prepared.join([prepared.encode(Turn(picture(row["picture"]), row["question"]))])
        output = model.generate(**inputs, generation_config=greedy)[0, inputs["input_ids"].shape[1] :]
        assert prepared.tokenizer.decode(output, skip_special_tokens=True).strip() == adapted["response"]
