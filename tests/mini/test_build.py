"""The build command: a build is repeatable, cached, and complete or absent. Files that are not its own stay."""

import shutil
import signal

import pytest
import torch
from helpers import ROOT, write_json

from safeeraser.benchmark.files import Busy, held, read_json, sha256
from safeeraser.mini import fit
from safeeraser.mini.base_model import build as build_model
from safeeraser.mini.build import CONTENTS, KIND, NEVER_KNEW, RETRAINS, build, main
from safeeraser.mini.concepts import EVERY_HARMFUL
from safeeraser.mini.derived import INSTRUCTIONS
from safeeraser.mini.exam import exam
from safeeraser.mini.settings import read_settings
from safeeraser.mini.stored import read_stored

MODELS = ("base_model", NEVER_KNEW)


def contents(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_manifest_says_what_it_is_and_of_which_models(small, settings):
    manifest = read_json(small / "manifest.json")
    assert {path.name for path in small.iterdir()} == CONTENTS - {
        "unseen.json",
        *RETRAINS,
    }  # size tiny has none
    assert (
        manifest["counts"] == {"train": 12, "dev": 12, "val": 36, "vqa": 20}
        and "Not a safety result" in manifest["note"]
    )
    assert (manifest["kind"], manifest["settings_hash"]) == (KIND, settings.hash)
    assert settings.hash != settings.model_copy(update={"seed": 1}).hash
    kinds = {"harmful", "retain", "vqa"}
    assert [set(manifest[name]["accuracy"]) for name in MODELS] == [kinds, {*kinds, "unknown"}]
    assert all(manifest[name]["weights"] == sha256(small / name / "model.safetensors") for name in MODELS)
    assert manifest[NEVER_KNEW]["parameters"] == manifest["base_model"]["parameters"] > 10**6
    for file, several in (("model.safetensors", 2), ("tokenizer.json", 1)):
        assert len({sha256(small / name / file) for name in MODELS}) == several


def test_a_comment_and_a_docstring_decide_nothing_and_code_does(settings, tmp_path, monkeypatch):
    folder = shutil.copytree(ROOT / "safeeraser" / "mini", tmp_path / "mini")
    monkeypatch.setattr("safeeraser.mini.settings.__file__", str(folder / "settings.py"))
    file, before = folder / "concepts.py", settings.hash
    file.write_text(f'"""Said otherwise."""  # as is this\n{file.read_text().split(chr(34) * 3, 2)[2]}')
    assert settings.hash == before
    file.write_text(file.read_text() + "MORE = 1\n")
    assert settings.hash != before


def test_a_folder_that_is_up_to_date_gets_what_an_earlier_version_lacks_and_is_left_alone(
    small, settings, tmp_path, capsys
):
    old = shutil.copytree(small, tmp_path / "mini")
    (tmp_path / ".mini.stages" / "of a build that was killed").mkdir(parents=True)
    written = (old / "manifest.json").stat().st_mtime_ns
    for lacks in ("truth.json", INSTRUCTIONS):
        (old / lacks).unlink()
        build(old, settings, MODELS if lacks == INSTRUCTIONS else MODELS[:1])
        assert "up to date" in capsys.readouterr().out and contents(old) == contents(small)
    assert (old / "manifest.json").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


@pytest.mark.parametrize(
    ("there", "words", "names"),
    [
        ({"thesis.txt": "mine"}, (), "is not a mini benchmark"),
        ({"manifest.json": {"kind": KIND}, "adapter": "mine"}, (), "also holds adapter"),
        ({}, ("--size", "tny"), "did you mean 'tiny'"),
        ({}, ("--size", "small", "--language_model", "nowhere/at-all"), "nowhere/at-all"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_touched(there, words, names, tmp_path, capsys):
    for name, value in there.items():
        write_json(tmp_path / "mini" / name, value)
    before = contents(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["--out", str(tmp_path / "mini"), *words])
    told = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2 and told[-1].startswith("error: ") and names in told[-1]
    assert {name: each for name, each in contents(tmp_path).items() if ".stages" not in name} == before


@pytest.mark.slow
def test_the_same_seed_writes_the_same_files_and_the_model_is_added_as_if_both_were_built_at_once(
    small, settings, tmp_path, monkeypatch
):
    """Through a symlink, over an older benchmark, after a killed build. If adding a model fails, nothing changes."""
    link, out, write = tmp_path / "link", tmp_path / "mini", fit.write_whole
    write_json(out / "manifest.json", {"kind": KIND})
    (out / f".{NEVER_KNEW}.1.tmp").mkdir()  # left by a run that was killed while it added the model
    (tmp_path / ".mini.stages" / "of other settings").mkdir(parents=True)
    link.symlink_to(out)
    with held(tmp_path / ".mini.stages", "other"), pytest.raises(Busy, match="another run is at work there"):
        build(link, settings)

    def killed(path, mode):
        if path.name == "base_model.pt" and path.is_file():
            raise KeyboardInterrupt
        return write(path, mode)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fit, "KEEP_EVERY", 0)
        patch.setattr(fit, "write_whole", killed)
        build(link, settings)
    (kept,) = tmp_path.rglob("base_model.pt")
    assert torch.load(kept)["step"] == 1 and not (out / "base_model").exists()
    build(link, settings)
    plain, whole = contents(out), contents(small)
    assert link.is_symlink() and {path.name for path in tmp_path.iterdir()} == {"link", "mini"}
    both = {name: each for name, each in whole.items() if not name.startswith(NEVER_KNEW)}
    assert plain | {"manifest.json": ""} == both | {"manifest.json": ""}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("safeeraser.model.merge.write_model", lambda *_: signal.raise_signal(signal.SIGINT))
        build(out, settings, MODELS)
    assert contents(out) == plain
    (out / NEVER_KNEW).mkdir()  # left by a run that was killed before it updated the manifest
    build(out, settings, MODELS)
    assert contents(out) == whole


def test_the_models_of_size_tiny_come_with_the_package_as_they_were_trained(tmp_path):
    """Otherwise every user would train for minutes, and get other figures."""
    settings = read_settings("tiny")
    for name in (*MODELS, *RETRAINS):
        told = read_stored(name, settings).record
        assert told["accuracy"]["harmful"] > 0.95 and told["accuracy"].get("unknown", 0) == 0
    few = settings.model_copy(update={"exam_pictures": 4})
    model, preprocessor = build_model(settings, tmp_path)
    for name, unknown in (("base_model-2", ()), ("never_knew-4", EVERY_HARMFUL), ("never_knew-5", EVERY_HARMFUL)):
        model.load_state_dict(read_stored(name, settings).weights)
        now = exam(model.eval(), preprocessor, few, unknown)
        assert now["harmful"] > 0.8 and now["vqa"] > 0.8 and now.get("unknown", 0) == 0
    assert read_stored("base_model", settings.model_copy(update={"speak_steps": 2})) is None
    towers = [
        {key: value for key, value in read_stored(name, settings).weights.items() if "vision_tower" in key}
        for name in ("base_model", "never_knew-4", "never_knew-5")
    ]
    assert all(towers[0][key].equal(towers[1][key]) for key in towers[0])
    assert not any(towers[0][key].equal(towers[2][key]) for key in towers[0] if key.endswith("fc1.weight"))
