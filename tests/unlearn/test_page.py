"""How a page is put together: the release's own file, templates in names, keywords in place of a command line."""

import json

import pytest
from helpers import MODEL, ROOT, TRAIN, config, refused, run
from omegaconf import OmegaConf

from safeeraser import unlearn
from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.page import from_keys

pytestmark = pytest.mark.slow

# The keys of the released config/forget_lora.yaml, with its values.
RELEASE = {
    "model_family": "llava-v1.5-vicuna",
    "model_path": "llava-hf/llava-1.5-7b-hf",
    "LoRA": {"r": 32, "alpha": 256, "dropout": 0.05},
    "lr": 1e-4,
    "split": "all",
    "data_path": "dataset/all_train.json",
    "batch_size": 1,
    "gradient_accumulation_steps": 16,
    "num_epochs": 10,
    "forget_loss": "ga",
    "tune_vision_tower": False,
    "tune_mm_projector": True,
    "tune_language_model": False,
    "max_grad_norm": 1.0,
    "save_dir": "ckpt_results/llava-7b/${forget_loss}_${lr}_${split}_${num_epochs}",
    "save_steps": 0,
    "overwrite_dir": False,
    "weight_decay": 0.01,
    "save_model": True,
    "eval_while_train": False,
    "eval_only": False,
    "seed": 233,
    "workers": 4,
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.06,
    "max_train_steps": -1,
    "report_to": "wandb",
    "resume_from_checkpoint": "",
}
FEW = {"num_epochs": 1, "workers": 0, "save_model": False, "dtype": "float32"}


@pytest.fixture
def release(tmp_path):
    """The release's settings file in a folder of its own."""
    (tmp_path / "config").mkdir()
    OmegaConf.save(OmegaConf.create(RELEASE), tmp_path / "config" / "release.yaml")
    return ["--config-dir", tmp_path / "config", "--config-name", "release.yaml"]


def test_the_release_file_runs_as_it_is(release, tmp_path):
    """With what a user changes on the command line, keys among it that the file lacks."""
    few = [f"{key}={value}" for key, value in FEW.items()]
    given = [*release, f"model_path={MODEL}", f"data_path={TRAIN}", "forget_loss=idkpd", *few, "stop.forget_loss=90"]
    done = run("forget", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "ckpt_results" / "llava-7b" / "popd_0.0001_all_1"
    told = json.loads((folder / "run.json").read_text())["settings"]
    assert told["forget_loss"]["name"] == "popd" and told["model_family"]["name"] == "llava-1.5-7b"
    assert told["max_train_steps"] is None and told["resume_from_checkpoint"] is None
    assert {path.name for path in tmp_path.iterdir()} == {"config", "ckpt_results"}


def test_its_settings_are_the_defaults_but_for_names(release, tmp_path):
    """The same run as `forget_loss=ga` on this project's own page."""
    done = run("forget", *release, "--cfg", "job", cwd=tmp_path)
    assert done.returncode is None or done.returncode == 0, done.stderr
    theirs = read_settings(from_keys(OmegaConf.to_container(OmegaConf.create(done.stdout)))).model_dump()
    ours = read_settings(config("forget_loss=ga")).model_dump()
    different = {key for key in ours if ours[key] != theirs[key]}
    assert different <= {"save_dir", "workers", "report_to", "tune_language_model"}
    assert str(theirs["save_dir"]) == "ckpt_results/llava-7b/ga_0.0001_all_10"


def test_a_key_that_the_release_never_reads_is_refused_where_it_would_ask_for_something(release, tmp_path):
    file = tmp_path / "config" / "release.yaml"
    file.write_text(file.read_text().replace("eval_only: false", "eval_only: true"))
    refused(tmp_path, "forget", *release, says="config: no key 'eval_only'")


def test_the_page_names_every_key_of_the_release():
    page = (ROOT / "docs" / "differences.md").read_text()
    keys = {*RELEASE, *(f"LoRA.{key}" for key in RELEASE["LoRA"])} - {"LoRA"}
    assert {key for key in keys if f"`{key}`" not in page} == set()


@pytest.mark.parametrize("template", ["out/${forget_loss}_${recipe}", "out/${forget_loss.name}_${recipe.name}"])
def test_a_group_in_a_name_is_its_choice(template):
    read = read_settings(from_keys({"forget_loss": "gdpd", "save_dir": template}))
    assert str(read.save_dir) == "out/gdpd_official"


def test_keywords_are_the_keys():
    """By name, whole or in part; what is not given stands as on the page."""
    method = {"name": "own", "terms": {"forget": {"loss": "nll", "views": ["forget"], "weight": -2.0}}}
    given = {"forget_loss": method, "recipe": "corrected", "LoRA": {"r": 8}, "stop.not_finite": False}
    read = read_settings(from_keys(given))
    assert list(read.method.terms) == ["forget"] and read.method.terms["forget"].weight == -2.0
    assert read.recipe.shuffle and (read.LoRA.r, read.LoRA.alpha) == (8, 256) and not read.stop.not_finite
    mini = read_settings(from_keys({"forget_loss": "ga"}, "mini"))
    assert (mini.max_train_steps, mini.lr, mini.batch_size) == (160, 5e-4, 8)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"forget_loss": "pod"}, "forget_loss: no 'pod'; did you mean 'popd'?"),
        ({"learning_rate": 1}, "no key 'learning_rate'"),
        ({"lr": object()}, "config: lr: "),
        ({"LoRA": {"rank": 8}}, "no key 'LoRA.rank'"),
        ({"save_dir": "${nowhere}"}, "nowhere"),
    ],
)
def test_keywords_that_cannot_be_used(keys, says):
    with pytest.raises(BadInput, match=r"^[a-z_ ]+: ") as error:
        read_settings(from_keys(keys))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "defaults: [forget_lora, _self_]\nforget_loss: gd\n",
            "mine.yaml: forget_loss: gd: say '- override",
        ),
        ("workers: [\n", "config: not YAML ("),
    ],
)
def test_a_page_of_ones_own_that_cannot_be_meant(tmp_path, text, says):
    """A choice beside defaults would be another method's run, and nobody would be told."""
    (tmp_path / "mine.yaml").write_text(text)
    refused(tmp_path, "forget", "--config-dir", tmp_path, "--config-name", "mine", "dry_run=true", says=says)


def test_a_page_that_is_not_there():
    with pytest.raises(BadInput, match="config: no 'mini2'; did you mean 'mini'"):
        from_keys({}, "mini2")


def test_unlearn_is_the_script(tmp_path, monkeypatch):
    monkeypatch.chdir(TRAIN.parents[1])
    given = {"model_path": str(MODEL), "data_path": TRAIN, "forget_loss": "gd", "max_train_steps": 1, **FEW}
    done = unlearn(save_dir=tmp_path / "door", **given)
    words = [f"{key}={value}" for key, value in given.items()]
    assert run("forget", *words, f"save_dir={tmp_path / 'script'}").returncode == 0
    ours, theirs = ((tmp_path / name / "train_log.jsonl").read_text() for name in ("door", "script"))
    assert ours == theirs
    assert (done.save_dir, done.steps, done.stopped) == (tmp_path / "door", 1, None)
    assert done.record["settings"]["forget_loss"]["name"] == "gd"
    assert [row["step"] for row in done.log] == [1] and set(done.log[0]["terms"]) == {"forget", "retain"}
    assert unlearn(save_dir=tmp_path / "door", resume_from_checkpoint="auto", **given).record == done.record
    assert unlearn(save_dir=tmp_path / "none", dry_run=True, **given) is None and not (tmp_path / "none").exists()
    with pytest.raises(BadInput, match="holds a run already"):
        unlearn(save_dir=tmp_path / "door", **given)
