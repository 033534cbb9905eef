"""The check of a dataset folder names what a record of the benchmark lacks, though one's own data may lack it."""

import json
import subprocess
import sys

import pytest
from helpers import record, write_dataset, write_json

from safeeraser.benchmark.check import check_folder


@pytest.fixture
def folder(tmp_path):
    train = write_dataset(tmp_path, record(0), record(1, "Sex"))
    write_json(tmp_path / "all_val.json", json.loads(train.read_text()))
    return tmp_path


def test_a_sound_folder(folder):
    records, faults = check_folder(folder)
    assert faults == [] and {name: len(found) for name, found in records.items()} == {
        "all_train.json": 2,
        "all_val.json": 2,
    }


def test_everything_that_is_wrong_is_named(folder):
    values = [record(0), record(1, "Sex")]
    del values[0]["SDImage_path"], values[0]["UnharmPair_image2"]
    values[1]["UnharmPair_text1"]["Prediction"] = ""
    values[1]["image_path"] = "no/such.jpg"
    del values[1]["unsafe_pairs"][2]["sd_response"]
    train = write_json(folder / "all_train.json", values)
    torn = folder / "pdset/Sex/1.jpg"
    torn.write_bytes(torn.read_bytes()[:200])
    assert check_folder(folder)[1] == [
        f"{train}: record 0, SDImage_path: missing",
        f"{train}: record 0, UnharmPair_image2: missing",
        f"{train}: record 1, UnharmPair_text1.Prediction: empty",
        f"{train}: record 1, unsafe_pairs.2.sd_response: empty",
        f"{train}: record 1, image_path: picture no/such.jpg not found",
        f"{train}: record 1, SDImage_path: {torn}: picture cannot be decoded (OSError)",
        f"{folder / 'all_val.json'}: record 1, SDImage_path: {torn}: picture cannot be decoded (OSError)",
    ]


def test_the_command_counts_and_exits_2(folder):
    (folder / "prompt.json").unlink()
    command = [sys.executable, "-m", "safeeraser.benchmark.check", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "prompt.json: no such file" in done.stdout and "1 faults" in done.stdout
