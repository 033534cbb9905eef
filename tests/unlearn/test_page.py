"""How a config file is put together: the release's own file, choices in names, keywords in place of a command line."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import MODEL, RECORDED, config, ran, read_beside, refusal, run
from omegaconf import OmegaConf

from safeeraser.unlearn.config.compose import from_keys
from safeeraser.unlearn.config.read import read_settings

GOLDEN = Path(__file__).with_name("golden")
RELEASE, REFUSED = GOLDEN / "release.yaml", read_beside(__file__, "golden/refused.yaml")
FEW = ("num_epochs=1", "workers=0", "save_model=false", "dtype=float32", "max_train_steps=1", "stop.forget_loss=90")


@pytest.mark.slow
def test_the_release_file_runs_as_it_is_and_leaves_nothing_elsewhere(tmp_path):
    """With what a user changes on the command line, keys among it that the file lacks."""
    release = ("--config-dir", shutil.copy(RELEASE, tmp_path / "release.yaml").parent, "--config-name", "release.yaml")
    shutil.copytree(RECORDED / "dataset", tmp_path / "dataset")
    ran("forget", *release, f"model_path={MODEL}", "forget_loss=idkpd", *FEW, cwd=tmp_path)
    told = json.loads((tmp_path / "ckpt_results" / "llava-7b" / "popd_0.0001_all_1" / "run.json").read_text())
    assert told["settings"]["forget_loss"]["name"] == "popd" and told["optimizer_steps"] == 1
    assert told["settings"]["model_family"]["name"] == "llava-1.5-7b"
    assert {path.name for path in tmp_path.iterdir()} == {"release.yaml", "dataset", "ckpt_results"}
    # Its settings are the defaults but for names: the same run as `forget_loss=ga` here.
    done = run("forget", *release, "--cfg", "job", cwd=tmp_path)
    theirs = read_settings(from_keys(OmegaConf.to_container(OmegaConf.create(done.stdout)))).model_dump()
    ours = read_settings(config("forget_loss=ga")).model_dump()
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different <= {"save_dir", "workers", "report_to", "tune_language_model"}
    assert str(theirs["save_dir"]) == "ckpt_results/llava-7b/ga_0.0001_all_10"


def test_keywords_are_the_keys():
    """By name, whole or in part; what is not given stands as in the file. In a name a group is its choice."""
    method = {"name": "own", "terms": {"forget": {"loss": "nll", "views": ["forget"], "weight": -2.0}}}
    given = {"forget_loss": method, "recipe": "corrected", "LoRA": {"r": 8}, "stop.not_finite": False}
    read = read_settings(from_keys(given | {"save_dir": "out/${forget_loss}_${recipe.name}"}))
    assert list(read.method.terms) == ["forget"] and read.method.terms["forget"].weight == -2.0
    assert read.recipe.shuffle and (read.LoRA.r, read.LoRA.alpha) == (8, 256) and not read.stop.not_finite
    assert str(read.save_dir) == "out/own_corrected"
    mini = read_settings(from_keys({"forget_loss": "ga"}, "mini"))
    assert (mini.max_train_steps, mini.lr, mini.batch_size) == (160, 5e-4, 8)
    both = read_settings(from_keys({"forget_loss": "npo+pd", "data": "own", "data.views.retain.answer": "caption"}))
    assert both.title == "NPO+PD" and both.method.terms["decoupled"].weight == 1.0
    assert {view: each.answer for view, each in both.data.views.items()}["retain"] == "caption"


@pytest.mark.parametrize(("keys", "page", "says"), REFUSED["keywords"], ids=str)
def test_keywords_that_cannot_be_meant_are_refused(keys, page, says):
    given = {key: object() if value == "an object" else value for key, value in keys.items()}
    assert says in refusal(lambda: read_settings(from_keys(given, page)))
