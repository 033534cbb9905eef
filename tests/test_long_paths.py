"""A path or a name that is longer than the file system takes is one line, whichever command looks at it first."""

import sys

import pytest
from helpers import MODEL, RECORDED, TRAIN, VAL, refused

from safeeraser.model import __main__ as adapters
from safeeraser.model import convert

LONG = ("abcd/" * 1000 + "end", "n" * 300 + ".json")
CHECKPOINT = RECORDED / "inference" / "checkpoint.pt"


@pytest.mark.parametrize("long", LONG, ids=["path", "name"])
@pytest.mark.parametrize("key", ["save_dir", "data_path", "init_adapter", "resume_from_checkpoint"])
def test_training(tmp_path, key, long):
    given = (f"model_path={MODEL}", f"data_path={TRAIN}", f"save_dir={tmp_path / 'run'}", "dry_run=true")
    refused(tmp_path, "forget", *given, f"{key}={long}", says="File name too long", cwd=tmp_path)


@pytest.mark.parametrize("long", LONG, ids=["path", "name"])
@pytest.mark.parametrize("option", ["--eval_file", "--output_file", "--checkpoint_path", "--model_path"])
def test_inference(tmp_path, option, long):
    given = ("--model_path", MODEL, "--eval_file", VAL, "--output_file", tmp_path / "p.json")
    refused(tmp_path, "ckpt_infer", *given, option, long, says="File name too long", cwd=tmp_path)


@pytest.mark.parametrize("long", LONG, ids=["path", "name"])
@pytest.mark.parametrize("option", ["--input_file", "--output_file_rr", "--summary", "--store"])
def test_scoring(tmp_path, option, long):
    given = ("--judge", "rules", "--input_file", VAL, "--file_refer", VAL, "--summary", tmp_path / "s.json")
    refused(tmp_path, "eval_all", *given, option, long, says="File name too long", cwd=tmp_path)


@pytest.mark.parametrize("long", LONG, ids=["path", "name"])
@pytest.mark.parametrize("option", ["--checkpoint_path", "--val_file"])
def test_an_audit(tmp_path, option, long):
    convert(CHECKPOINT, tmp_path / "adapter", model_path=str(MODEL))
    given = ("--checkpoint_path", tmp_path / "adapter", "--val_file", VAL, "--train_file", TRAIN)
    refused(tmp_path, "audit", "--judge", "rules", *given, option, long, says="File name too long", cwd=tmp_path)


@pytest.mark.parametrize("long", LONG, ids=["path", "name"])
@pytest.mark.parametrize(
    "arguments",
    [("convert", "LONG", "out"), ("convert", CHECKPOINT, "LONG"), ("merge", "LONG", "out"), ("copy", MODEL, "LONG")],
)
def test_converting_and_merging(monkeypatch, capsys, tmp_path, arguments, long):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["model", *(str(word).replace("LONG", long) for word in arguments)])
    with pytest.raises(SystemExit) as stop:
        adapters.main()
    said = capsys.readouterr()
    assert stop.value.code == 2 and said.out == "" and not list(tmp_path.iterdir())
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and "File name too long" in said.err
