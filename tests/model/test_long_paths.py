"""A path or a name that is longer than the file system takes is one line, whichever command looks at it first."""

import pytest
from helpers import MODEL, TRAIN, VAL, refused

from safeeraser.model import convert

from .conftest import CHECKPOINT

pytestmark = pytest.mark.slow

ANSWER = ("ckpt_infer", "--model_path", MODEL, "--eval_file", VAL, "--output_file", "p.json")
SCORE = ("eval_all", "--judge", "rules", "--input_file", VAL, "--file_refer", VAL, "--summary", "s.json")
AUDIT = ("audit", "--judge", "rules", "--val_file", VAL, "--train_file", TRAIN)
TRAIN_ON = ("forget", f"model_path={MODEL}", f"data_path={TRAIN}", "save_dir=run", "dry_run=true")


@pytest.mark.parametrize("long", ["abcd/" * 1000 + "end", "n" * 300 + ".json"], ids=["path", "name"])
def test_a_long_path_is_refused_in_one_line(tmp_path, long):
    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    for given, options in (
        (ANSWER, ("--eval_file", "--output_file", "--checkpoint_path", "--model_path")),
        (SCORE, ("--input_file", "--output_file_rr", "--summary", "--store")),
        ((*AUDIT, "--checkpoint_path", tmp_path / "adapter"), ("--checkpoint_path", "--val_file")),
    ):
        for option in options:
            refused(tmp_path, *given, option, long, says="File name too long", cwd=tmp_path)
    for key in ("save_dir", "data_path", "init_adapter", "resume_from_checkpoint"):
        refused(tmp_path, *TRAIN_ON, f"{key}={long}", says="File name too long", cwd=tmp_path)
