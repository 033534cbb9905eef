"""The build command: repeatable, cached, whole or not at all, and careful with what is not its own."""

import re
import shutil

import pytest
from helpers import write_json
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import safeeraser.mini.build as module
from safeeraser.benchmark import conversation
from safeeraser.benchmark.conversation import prompt
from safeeraser.benchmark.files import Busy, held, read_json, sha256
from safeeraser.errors import BadInput
from safeeraser.mini.build import CONTENTS, KIND, NEVER_KNEW, build, main
from safeeraser.mini.exam import reply
from safeeraser.mini.instructions import INSTRUCTIONS
from safeeraser.mini.pictures import render
from safeeraser.mini.texts import TINY

from .test_material import SCENE

MODELS = ("base_model", NEVER_KNEW)


def contents(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_manifest_says_what_it_is_and_of_which_models(small, settings):
    manifest = read_json(small / "manifest.json")
    assert {path.name for path in small.iterdir()} == CONTENTS - {"unseen.json"}  # which the size has none of
    assert manifest["counts"] == {"train": 12, "val": 24, "vqa": 20} and "Not a safety result" in manifest["note"]
    assert (manifest["kind"], manifest["settings_hash"]) == (KIND, settings.hash)
    kinds = {"harmful", "retain", "vqa"}
    assert [set(manifest[name]["accuracy"]) for name in MODELS] == [kinds, {*kinds, "unknown"}]
    assert manifest[NEVER_KNEW]["parameters"] == manifest["base_model"]["parameters"] > 10**6
    weights, spelt = (
        {sha256(small / name / f"{file}") for name in MODELS} for file in ("model.safetensors", "tokenizer.json")
    )
    assert (len(weights), len(spelt)) == (2, 1)


def test_a_models_folder_loads_and_generates_by_the_ordinary_means(small, settings, untrained):
    loaded = (kind.from_pretrained(small / "base_model") for kind in (LlavaForConditionalGeneration, LlavaProcessor))
    model, processor = loaded
    inputs = processor(images=render(SCENE, 64), text=prompt(TINY.prompts[0], "user"), return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == model.config.image_seq_length == 16
    said = model.eval().generate(**inputs, max_new_tokens=settings.exam_tokens, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    (by_exam,) = reply(model, untrained[1], TINY.prompts[0], [SCENE], settings, sample=False)
    assert by_exam.removesuffix(" ...") == processor.tokenizer.decode(said, skip_special_tokens=True)


def test_a_folder_that_is_up_to_date_gets_what_an_earlier_version_lacks_and_is_left_alone(
    small, settings, tmp_path, capsys
):
    old = shutil.copytree(small, tmp_path / "mini")
    (tmp_path / ".mini.stages" / "of a build that was killed").mkdir(parents=True)
    written = (old / "manifest.json").stat().st_mtime_ns
    for lacks in ("truth.json", INSTRUCTIONS):
        (old / lacks).unlink()
        build(old, settings, never_knew=lacks == INSTRUCTIONS)
        assert "up to date" in capsys.readouterr().out and contents(old) == contents(small)
    assert (old / "manifest.json").stat().st_mtime_ns == written
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_what_decides_the_contents_makes_a_benchmark_stale_and_nothing_else(monkeypatch, settings, tmp_path):
    before, others = settings.hash, [settings.model_copy(update=each) for each in ({"seed": 1}, {"vqa": 21})]
    assert before not in {each.hash for each in others}
    assert settings.model_copy(update={"data": tmp_path}).hash == before
    (tmp_path / "conversation.py").write_text("# another template")
    monkeypatch.setattr(conversation, "__file__", str(tmp_path / "conversation.py"))
    assert settings.hash != before


@pytest.mark.parametrize(
    ("there", "words", "names"),
    [
        ({"thesis.txt": "mine"}, (), "is no mini benchmark"),
        ({"manifest.json": {"kind": "other"}}, (), "is no mini benchmark"),
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


def test_a_missing_font_and_another_build_at_work_are_named(monkeypatch, settings, tmp_path):
    (tmp_path / ".mini.stages").mkdir()
    with held(tmp_path / ".mini.stages", "other"), pytest.raises(Busy, match="another run is at work there"):
        build(tmp_path / "mini", settings)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install QtAwesome"):
        build(tmp_path / "mini", settings)


@pytest.mark.slow
def test_the_same_seed_writes_the_same_files_and_the_model_is_added_as_if_both_were_built_at_once(
    small, settings, tmp_path, monkeypatch, capsys
):
    """Behind a link, over an older benchmark; and where adding the model ends early, nothing is changed."""
    link, out = tmp_path / "link", tmp_path / "mini"
    write_json(out / "manifest.json", {"kind": KIND})
    (out / f".{NEVER_KNEW}.1.tmp").mkdir()  # of a run that was killed while it added that model
    (tmp_path / ".mini.stages" / "of other settings").mkdir(parents=True)
    link.symlink_to(out)
    build(link, settings)
    plain, whole = contents(out), contents(small)
    assert link.is_symlink() and {path.name for path in tmp_path.iterdir()} == {"link", "mini"}
    both = {name: each for name, each in whole.items() if not name.startswith(NEVER_KNEW)}
    assert plain | {"manifest.json": ""} == both | {"manifest.json": ""}
    told = read_json(small / "manifest.json")
    assert told.pop(NEVER_KNEW) and told == read_json(out / "manifest.json")

    def ended(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("safeeraser.model.write_model", ended)
    with pytest.raises(KeyboardInterrupt):
        build(out, settings, never_knew=True)
    assert contents(out) == plain
    monkeypatch.undo()
    monkeypatch.setattr(module, "TELL_EVERY", -1)
    (out / NEVER_KNEW).mkdir()  # of a run that was killed before the manifest told of it
    build(out, settings, never_knew=True)
    assert contents(out) == whole
    assert re.search(
        rf"^{NEVER_KNEW}: learning to speak: 2 of 2 \(loss \d.*\), [\d.]+ min", capsys.readouterr().out, re.M
    )
