"""The build command: cached, repeatable, and careful with what is not its own."""

import re
import shutil

import pytest

import safeeraser.mini.build as module
import safeeraser.mini.pictures as pictures
from safeeraser.benchmark import conversation
from safeeraser.benchmark.files import read_json, sha256, write_json
from safeeraser.errors import BadInput
from safeeraser.mini.build import CONTENTS, KIND, NEVER_KNEW, build, main
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL
from safeeraser.mini.dataset import write_split
from safeeraser.mini.instructions import INSTRUCTIONS
from safeeraser.mini.questions import REPEAT, words
from safeeraser.mini.texts import TINY

pytestmark = pytest.mark.slow
PLAIN = CONTENTS - {NEVER_KNEW, "unseen.json"}  # of a benchmark of size tiny, without the model that never knew


def contents(folder):
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_same_seed_writes_the_same_files(small, settings, tmp_path):
    build(tmp_path / "again", settings)
    assert contents(tmp_path / "again") == contents(small)
    assert {path.name for path in small.iterdir()} == PLAIN


def test_another_seed_writes_other_records_and_pictures(small, settings, tmp_path):
    write_split(tmp_path, "train", settings.model_copy(update={"seed": 1}), lambda: None)
    assert not set(contents(tmp_path).items()) & set(contents(small).items())


def test_the_manifest_says_what_it_is(small):
    manifest = read_json(small / "manifest.json")
    assert manifest["counts"] == {"train": 12, "val": 24, "vqa": 20}
    assert "Not a safety result" in manifest["note"]
    assert manifest["settings"]["seed"] == 233 and set(manifest["base_model"]["accuracy"]) == {
        "harmful",
        "retain",
        "vqa",
    }


def test_a_log_is_told_how_far_it_is(settings, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "TELL_EVERY", -1)
    build(tmp_path / "mini", settings)
    assert re.search(
        r"^base_model: learning to speak: 2 of 2 \(loss \d.*\), [\d.]+ min left$", capsys.readouterr().out, re.M
    )


def test_a_folder_that_is_up_to_date_is_left_alone(small, settings, capsys):
    before = (small / "manifest.json").stat().st_mtime_ns
    build(small, settings)
    assert "up to date" in capsys.readouterr().out
    assert (small / "manifest.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("lacks", ["truth.json", INSTRUCTIONS])
def test_a_folder_of_an_earlier_version_gets_what_it_lacks_and_is_not_built_again(
    lacks, small, settings, tmp_path, capsys
):
    old = tmp_path / "mini"
    shutil.copytree(small, old)
    (old / lacks).unlink()
    model = (old / "base_model" / "model.safetensors").stat().st_mtime_ns
    build(old, settings)
    assert "up to date" in capsys.readouterr().out and contents(old) == contents(small)
    assert (old / "base_model" / "model.safetensors").stat().st_mtime_ns == model
    written = (old / lacks).stat().st_mtime_ns
    build(old, settings)
    assert (old / lacks).stat().st_mtime_ns == written


@pytest.fixture(scope="module")
def both(settings, tmp_path_factory):
    """The folder of a small mini benchmark that was built with both models."""
    out = tmp_path_factory.mktemp("both") / "mini"
    build(out, settings, never_knew=True)
    return out


def test_the_model_that_never_knew_changes_nothing_else_and_is_another(small, both):
    told, plain = read_json(both / "manifest.json"), contents(small)
    accuracy = told.pop(NEVER_KNEW)["accuracy"]
    assert told == read_json(small / "manifest.json") and set(accuracy) == {"harmful", "retain", "vqa", "unknown"}
    beside = {name: hash_ for name, hash_ in contents(both).items() if not name.startswith(NEVER_KNEW)}
    assert beside | {"manifest.json": None} == plain | {"manifest.json": None}
    weights = [sha256(both / name / "model.safetensors") for name in ("base_model", NEVER_KNEW)]
    words = [sha256(both / name / "tokenizer.json") for name in ("base_model", NEVER_KNEW)]
    assert weights[0] != weights[1] and words[0] == words[1]


def test_it_is_added_to_a_benchmark_that_lacks_it_as_if_both_were_built_at_once(
    small, both, settings, tmp_path, capsys
):
    out = tmp_path / "mini"
    shutil.copytree(small, out)
    (out / NEVER_KNEW).mkdir()  # of a run that was killed before the manifest told of it
    (out / NEVER_KNEW / "half").touch()
    model = (out / "base_model" / "model.safetensors").stat().st_mtime_ns
    build(out, settings, never_knew=True)
    assert contents(out) == contents(both)
    assert (out / "base_model" / "model.safetensors").stat().st_mtime_ns == model
    capsys.readouterr()
    for never_knew in (True, False):
        build(out, settings, never_knew=never_knew)
        assert "up to date" in capsys.readouterr().out and contents(out) == contents(both)


def test_a_run_that_ends_while_it_adds_the_model_leaves_the_benchmark_as_it_was(small, settings, tmp_path, monkeypatch):
    def ended(*_: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "mini"
    shutil.copytree(small, out)
    monkeypatch.setattr("safeeraser.model.write_model", ended)
    with pytest.raises(KeyboardInterrupt):
        build(out, settings, never_knew=True)
    assert contents(out) == contents(small) and {path.name for path in out.iterdir()} == CONTENTS - {
        NEVER_KNEW,
        "unseen.json",
    }


def test_the_instructions_are_texts_alone_without_harm_and_refusals(small):
    records = read_json(small / INSTRUCTIONS)
    assert len({record["question"] for record in records}) == len(records) == 200
    assert all(set(record) == {"view", "question", "answer"} and record["view"] == "retain" for record in records)
    assert all(record["question"] == REPEAT + record["answer"] for record in records)
    used = {word for record in records for word in record["answer"].split()}
    harm = [*TINY.refusals, *(concept.use for concept in EVERY), *(concept.name for concept in EVERY_HARMFUL)]
    assert used <= set(words(TINY)) and not used & {word.strip(".,") for text in harm for word in text.split()}


def test_another_prompt_or_chat_template_makes_it_stale(monkeypatch, settings, tmp_path):
    before = settings.hash
    changed = tmp_path / "conversation.py"
    changed.write_text("# another template")
    monkeypatch.setattr(conversation, "__file__", str(changed))
    assert settings.model_copy().hash != before


def test_a_foreign_folder_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit) as exit_:
        main(["--out", str(tmp_path)])
    assert exit_.value.code == 2 and "is no mini benchmark" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_user_put_into_the_folder_is_not_thrown_away(settings, tmp_path):
    (tmp_path / "mini" / "adapter").mkdir(parents=True)
    write_json(tmp_path / "mini" / "manifest.json", {"kind": KIND})
    with pytest.raises(BadInput, match="also holds adapter"):
        build(tmp_path / "mini", settings)
    assert (tmp_path / "mini" / "adapter").is_dir() and [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_a_link_to_the_folder_stays_and_what_it_leads_to_is_built_again(settings, tmp_path):
    link, folder = tmp_path / "mini", tmp_path / "disk" / "mini"
    folder.mkdir(parents=True)
    write_json(folder / "manifest.json", {"kind": KIND})
    (folder / f".{NEVER_KNEW}.1.tmp").mkdir()  # of a run that was killed while it added that model
    link.symlink_to(folder)
    build(link, settings)
    assert link.is_symlink() and {path.name for path in folder.iterdir()} == PLAIN
    assert [path.name for path in folder.parent.iterdir()] == ["mini"]


def test_a_missing_font_package_is_named(monkeypatch, settings, tmp_path):
    monkeypatch.setattr(pictures.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match="pip install QtAwesome"):
        build(tmp_path / "mini", settings)
