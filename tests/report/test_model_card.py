"""The model card: what it tells, what it must not, whose card is replaced, and that its code runs."""

import json
import re
import subprocess
import sys

import pytest
import torch
from helpers import MODEL, RECORDED, ROOT, TRAIN, run, settings
from huggingface_hub import ModelCard, ModelCardData, metadata_eval_result, metadata_load
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText

from safeeraser import model as models
from safeeraser.errors import BadInput
from safeeraser.report.model_card import CARD, card, replaceable, write_card

from .made_up_audits import audit, controlled
from .made_up_runs import ANSWERED, ASKED, REFUSED, full_results, metric, summary, write

pytestmark = pytest.mark.slow

BASE = {"revision": "c" * 40, "weights": "f" * 64}
DATA = {"records": 12, "categories": {"Privacy": 7, "Weapon": 5}, "sha256": "d" * 64, "skipped": ["/home/u/x.jpg bad"]}


def made_up(folder, *words, base=BASE, **more):
    """A finished run's folder, so far unscored; its weights are none."""
    told = settings("model_path=llava-hf/llava-1.5-7b-hf", *words).model_dump(mode="json")
    told = {"title": "PO+PD", "settings": told, "base": base, "data": DATA, "finished": "2026-01-01T00:00:00+0000"}
    write(folder, "run.json", told | {"versions": {"peft": "0.21.2"}, "git_commit": "0123"} | more)
    write(folder, "adapter_model.safetensors", "")
    return folder


def head(folder):
    write_card(folder)
    return metadata_load(folder / CARD)


def test_a_scored_run_tells_its_figures_and_none_of_the_texts(tmp_path):
    folder = made_up(full_results(tmp_path / "results") / "popd")
    text = write_card(folder).read_text()
    assert "| ASR-Gen ↓ | val | 10.0 | 5.0–15.0 | 4 | rules | official |" in text
    assert "**Not measured:** GPT, Spec." in text and "Not scored" not in text and "Not audited" in text
    assert "The judge was never checked on cases whose verdict is known" in text
    assert "By category: Privacy 7, Weapon 5." in text and f"`{'d' * 64}`" in text
    for secret in (ASKED, ANSWERED, REFUSED, str(tmp_path), "/home/u", str(TRAIN.parent)):
        assert secret not in text
    before = (folder / CARD).read_bytes()
    assert write_card(folder).read_bytes() == before, "the same run gives the same bytes"


def test_blank_and_wrong_responses_are_the_reports_and_no_rows(tmp_path):
    """Every summary that is scored tells of them; they stand in no column of the paper's table."""
    folder = made_up(tmp_path / "popd")
    beside = {"blank": {"forget": metric(0.25)}, "wrong": {"decoupled": metric(0.5)}}
    write(folder, "summary_val.json", summary("val", metric(0.1), metric(0.8), **beside))
    text = write_card(folder).read_text()
    rows = [line.split(" | ")[0] for line in text.splitlines() if "| rules |" in line]
    assert rows == ["| ASR-Gen ↓", "| RR-Gen ↑", "| SARR ↓"]


def test_the_hub_reads_the_metadata(tmp_path):
    """As huggingface_hub does: each figure with judge and protocol, and the same from the file as into it."""
    folder = made_up(full_results(tmp_path / "results") / "popd")
    write(folder, "specificity.json", {"value": 0.5, "tasks": {"mme": {"value": 0.5, "n": 9, "metric": "acc"}}})
    told = head(folder)
    assert told["base_model"] == "llava-hf/llava-1.5-7b-hf" and told["license"] == "llama2"
    assert told["library_name"] == "peft" and "machine-unlearning" in told["tags"]
    loaded = ModelCard.load(folder / CARD)
    assert loaded.data.to_dict()["model-index"] == told["model-index"]
    found = {(one.metric_type, one.dataset_split): one for one in loaded.data.eval_results}
    assert set(found) == {*((m, s) for m in ("asr", "rr") for s in ("train", "val"))} | {
        ("rouge_l", "val"),
        ("sarr", "val"),
        ("acc", None),
    }
    asr = found["asr", "val"]
    assert asr.metric_value == 10.0 and asr.metric_name == "ASR-Gen (judge rules, protocol official)"
    assert asr.metric_args == {"judge": "rules", "protocol": "official", "low": 5.0, "high": 15.0, "n": 4}
    one = metadata_eval_result(
        model_pretty_name=told["model-index"][0]["name"],
        task_pretty_name="safety unlearning",
        task_id="image-text-to-text",
        metrics_pretty_name=asr.metric_name,
        metrics_id="asr",
        metrics_value=10.0,
        dataset_pretty_name="SafeEraser",
        dataset_id="safeeraser",
        dataset_split="val",
    )["model-index"][0]["results"][0]
    ours = next(result for result in told["model-index"][0]["results"] if result["dataset"].get("split") == "val")
    assert ours["task"] == one["task"] and ours["dataset"] == one["dataset"]
    told = next(metric for metric in ours["metrics"] if metric["type"] == "asr")
    assert all(told[key] == one["metrics"][0][key] for key in ("type", "value", "name"))


def test_a_figure_that_is_withheld_is_in_no_index(tmp_path):
    gone = metric(None, withheld="3.1% failed")
    write(made_up(tmp_path), "summary_val.json", summary("val", gone, metric(0.5, 0.4, 0.6)))
    metrics = [m["type"] for r in head(tmp_path)["model-index"][0]["results"] for m in r["metrics"]]
    assert "rr" in metrics and "asr" not in metrics
    assert "| ASR-Gen ↓ | val | withheld |" in (tmp_path / CARD).read_text()


def test_the_judges_check_stands_beside_its_figures(tmp_path):
    checked = {"asr": {"judge": "rules", "n": 60, "right": 57, "at": "2026-01-01"}}
    write(made_up(tmp_path), "summary_val.json", summary("val", 0.1, 0.5, judge_check=checked))
    (result,) = head(tmp_path)["model-index"][0]["results"]
    assert result["metrics"][0]["args"]["judge_check"] == "57 of 60 cases right"
    assert "- ASR of rules: 57 of 60 cases right (2026-01-01)" in (tmp_path / CARD).read_text()


def test_a_run_that_was_not_scored_says_so(tmp_path):
    told = head(made_up(tmp_path))
    assert "model-index" not in told
    text = (tmp_path / CARD).read_text()
    assert "**Not scored.** Nothing was measured" in text and "Nothing: the run was not scored." in text


def test_an_audit_is_told(tmp_path):
    write(made_up(tmp_path), "summary_val.json", summary("val", 0.1, 0.5))
    write(tmp_path, "audit.json", audit())
    text = card(tmp_path)
    assert "Not audited" not in text and "Worst of 2: figstep, ASR 40.0%" in text and "**Attacks:**" in text
    write(tmp_path, "audit.json", controlled())
    text = card(tmp_path)
    assert "as a model that never knew has 90.0%" in text and "**Is it gone or covered?** Covered, by" in text
    assert "- **What broke?** *withheld: ROUGE-L was not measured*\n- Missing" in text


@pytest.mark.parametrize(
    ("words", "base", "named", "licence"),
    [
        ((), BASE, "llava-hf/llava-1.5-7b-hf", "llama2"),
        (("model_path=me/llava", "model_family=llava-1.5-7b"), BASE, "me/llava", None),
        (("model_path=models/llava", "model_family=llava-1.5-7b"), {"revision": None, "weights": "f" * 64}, None, None),
        (("model_path=/home/u/snapshots/llava", "model_family=llava-1.5-7b"), BASE, None, None),
    ],
)
def test_the_base_is_named_where_it_is_the_hubs(tmp_path, words, base, named, licence):
    told = head(made_up(tmp_path, *words, base=base))
    assert (told.get("base_model"), told.get("license")) == (named, licence)
    text = (tmp_path / CARD).read_text()
    assert "models/llava" not in text and "/home/u" not in text and (named or "a llava-1.5 that its maker had") in text


@pytest.mark.parametrize("place", ("/home/u/models", "file:///home/u/models", "../home/u", "../../home/u", "./home/u"))
def test_a_judge_that_is_named_for_a_folder(tmp_path, place):
    judge = metric(0.5, judge=f"openai:{place}/guard")
    write(made_up(tmp_path), "summary_val.json", summary("val", judge, judge))
    text = write_card(tmp_path).read_text()
    assert "home" not in text and "openai:guard" in text


@pytest.mark.parametrize(("name", "judge"), [("llava-mini", "truth"), ("llava-mini-small", "rules")])
def test_the_mini_benchmark_is_a_demonstration(tmp_path, name, judge):
    write(made_up(tmp_path, f"model_family={name}"), "summary_val.json", summary("val", 0.1, 0.5, judge=judge))
    told = head(tmp_path)
    (result,) = told["model-index"][0]["results"]
    assert "demonstration" in told["tags"] and "drawn pictures" in result["dataset"]["name"]
    text = (tmp_path / CARD).read_text()
    assert "**A demonstration on drawn pictures.**" in text
    assert ("apply_chat_template" in text) == (name == "llava-mini-small"), "whose words are not the release's"


def pefts_template():
    made = ModelCard.from_template(ModelCardData())
    made.data.base_model = "/x/y"
    return f"{made}\n### Framework versions\n\n- PEFT 0.21.2"


@pytest.mark.parametrize(
    ("text", "whose"),
    [
        (pefts_template(), "nobody"),
        (pefts_template().replace("[More Information Needed]", "me", 1), "somebody"),
        (pefts_template() + "\n\nMy words.", "somebody"),
        ("# My model", "somebody"),
        ("---\n: [\n---\n# My model", "somebody"),
    ],
)
def test_whose_card_it_is(tmp_path, text, whose):
    made_up(tmp_path)
    (tmp_path / CARD).write_text(text)
    assert replaceable(text) == (whose == "nobody")
    if whose == "somebody":
        with pytest.raises(BadInput, match=r"README\.md: was edited, and is left alone; --overwrite"):
            write_card(tmp_path)
        assert (tmp_path / CARD).read_text() == text
    write_card(tmp_path, overwrite=True)
    ours = (tmp_path / CARD).read_text()
    assert replaceable(ours) and not replaceable(ours.replace("research", "business")) and not replaceable(ours + "\n")


def test_what_has_no_card(tmp_path):
    with pytest.raises(BadInput, match="no finished run of forget"):
        card(tmp_path)
    made_up(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds neither an adapter nor a model"):
        card(tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    del told["finished"]
    write(tmp_path, "run.json", told)
    with pytest.raises(BadInput, match="no finished run of forget"):
        card(tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--model_card"], "--model_card: name the run's folder"),
        (["a", "b", "--model_card", "--push_to_hub", "me/popd"], "one for each place"),
        (["a", "--model_card", "--redact"], "--model_card: goes with RUN"),
        (["a", "--model_card", "--public"], "--public: goes with --push_to_hub"),
        (["a", "--overwrite"], "go with --model_card"),
        (["a", "--model_card"], "a: no finished run of forget.py"),
    ],
)
def test_command_lines_that_cannot_be_meant(tmp_path, words, says):
    command = [sys.executable, "-m", "safeeraser.report", *words]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "base", "licence", "told"),
    [
        ("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "apache-2.0", "As its base model: the Apache License 2.0."),
        ("gemma-3-4b", "google/gemma-3-4b-it", None, "None is stated here"),
    ],
)
def test_a_model_of_another_family_is_called_what_it_is(tmp_path, name, base, licence, told):
    found = head(made_up(tmp_path, f"model_family={name}", f"model_path={base}"))
    assert (found["base_model"], found.get("license")) == (base, licence)
    kind = {"qwen3-vl-4b": "qwen3_vl", "gemma-3-4b": "gemma3"}[name]
    assert kind in found["tags"] and "llava" not in found["tags"]
    text = (tmp_path / CARD).read_text()
    assert told in text and "LLaVA" not in text and "llava" not in text


def test_a_run_from_before_there_were_families_is_a_llavas(tmp_path):
    made_up(tmp_path, "model_family=llava-1.5-7b")
    told = json.loads((tmp_path / "run.json").read_text())
    del told["settings"]["model_family"]["model_type"]
    write(tmp_path, "run.json", told)
    assert "llava" in head(tmp_path)["tags"] and "ASSISTANT:" in (tmp_path / CARD).read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an adapter that was trained, and one with a model that was."""
    folder = tmp_path_factory.mktemp("trained")
    given = [f"data_path={TRAIN}", "dtype=float32", "workers=0", "limit=1", "max_train_steps=1", "forget_loss=gd"]
    base = f"model_path={MODEL}"
    done = run("forget", *given, base, "finetune=full", f"save_dir={folder / 'whole'}", cwd=RECORDED)
    assert done.returncode == 0, done.stderr
    done = run("forget", *given, f"model_path={folder / 'whole'}", f"save_dir={folder / 'adapter'}", cwd=RECORDED)
    assert done.returncode == 0, done.stderr
    Image.new("RGB", (40, 30), (200, 90, 20)).save(folder / "picture.jpg")
    return folder


@pytest.mark.parametrize(("kind", "dtype"), [("adapter", "auto"), ("adapter", "bfloat16"), ("whole", "auto")])
def test_the_cards_own_code_runs(trained, kind, dtype, monkeypatch, capsys):
    """The training run itself wrote the card."""
    text = (trained / kind / CARD).read_text()
    assert replaceable(text) and "**Not scored.**" in text and str(trained) not in text
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    for place, folder in (("PATH/TO/THIS/FOLDER", kind), ("PATH/TO/THE/BASE/MODEL", "whole")):
        code = code.replace(place, str(trained / folder))
    assert "PATH/TO" not in code and code.count("max_new_tokens=128") == 1
    monkeypatch.chdir(trained)
    found = {}
    exec(code.replace("max_new_tokens=128", "max_new_tokens=4").replace('"auto"', f'"{dtype}"'), found)
    assert found["answer"].shape[1] > found["inputs"]["input_ids"].shape[1]
    assert str(found["model"].dtype) == f"torch.{'float32' if dtype == 'auto' else dtype}"
    if kind == "adapter":
        plain = AutoModelForImageTextToText.from_pretrained(trained / "whole")
        plain = PeftModel.from_pretrained(plain, trained / kind)
        ours = found["model"].state_dict()
        assert all((ours[name].float() - each).abs().max() < 0.01 for name, each in plain.state_dict().items())


@pytest.mark.parametrize("name", ["gemma3", "idefics3"])
def test_the_code_asks_another_family_in_its_own_words(name, tmp_path, monkeypatch, capsys):
    """Token by token what inference asks; Gemma 3's template writes the first token, and its tokenizer adds one."""
    model = ROOT / "tests" / "data" / "families" / name / "model"
    given = [f"data_path={TRAIN}", "dtype=float32", "workers=0", "limit=1", "max_train_steps=1", "forget_loss=gd"]
    done = run("forget", *given, f"model_path={model}", f"save_dir={tmp_path / 'adapter'}", cwd=RECORDED)
    assert done.returncode == 0, done.stderr
    Image.new("RGB", (40, 30), (200, 90, 20)).save(tmp_path / "picture.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (tmp_path / "adapter" / CARD).read_text(), re.DOTALL)
    code = code.replace("PATH/TO/THIS/FOLDER", str(tmp_path / "adapter")).replace("PATH/TO/THE/BASE/MODEL", str(model))
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code.replace("max_new_tokens=128", "max_new_tokens=4"), found)
    assert capsys.readouterr().out.strip()
    turn = models.Turn(Image.open("picture.jpg").convert("RGB"), "What is in this picture?")
    asked = models.load_preprocessor(str(model)).encode(turn)
    assert found["inputs"]["input_ids"][0].tolist() == asked.input_ids
    assert torch.equal(found["inputs"]["pixel_values"], asked.inputs["pixel_values"])
