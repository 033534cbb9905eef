"""Inference from Python: the keywords are the script's options, and so is what comes of them."""

import pytest
from helpers import MODEL, RECORDED, VAL, run

from safeeraser import infer
from safeeraser.errors import BadInput

GIVEN = {"model_path": MODEL, "eval_file": VAL, "dtype": "float32", "max_new_tokens": 3, "limit": 1}
CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"


@pytest.fixture(autouse=True)
def beside_the_pictures(monkeypatch):
    monkeypatch.chdir(RECORDED)


def test_infer_is_the_script(tmp_path):
    done = infer(**GIVEN, checkpoint_path=CHECKPOINT, only=["retain", "decoupled"], output_file=tmp_path / "door.json")
    words = [word for key, value in GIVEN.items() for word in (f"--{key}", value)]
    words += ["--checkpoint_path", CHECKPOINT, "--only", "retain,decoupled", "--output_file", tmp_path / "script.json"]
    assert run("ckpt_infer", *words).returncode == 0
    assert (tmp_path / "door.json").read_bytes() == (tmp_path / "script.json").read_bytes()
    assert (done.output_file, done.missing) == (tmp_path / "door.json", {})
    again = infer(**GIVEN, checkpoint_path=CHECKPOINT, only=("retain", "decoupled"), output_file=tmp_path / "door.json")
    assert again == done and done.wanted == 6 * 8  # a record of each category


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"checkpoint": CHECKPOINT}, "unknown option '--checkpoint'; did you mean '--checkpoint_path'?"),
        ({"only": ["forgotten"]}, "unknown view 'forgotten'"),
        ({"temperature": 0}, "--temperature must be above 0"),
        ({"batch_size": 0}, "--batch_size"),
    ],
)
def test_options_that_cannot_be_used(tmp_path, more, says):
    with pytest.raises(BadInput) as error:
        infer(**GIVEN | {"output_file": tmp_path / "p.json"} | more)
    assert says in str(error.value) and not list(tmp_path.iterdir())
