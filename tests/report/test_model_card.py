"""The model card: what it tells, what it must not, whose card is replaced, and (slow) that its code runs."""

import re

import pytest
from huggingface_hub import ModelCard, ModelCardData, metadata_eval_result, metadata_load

from safeeraser.errors import BadInput
from safeeraser.report.model_card import CARD, card, replaceable, write_card

from .made_up_audits import controlled
from .made_up_runs import ANSWERED, ASKED, REFUSED, RUN, change, metric, summary, varied_results, write


def made_up(folder, family="llava-1.5-7b", kind="llava", **settings):
    """A finished run's folder, so far unscored; its weights are none."""
    settings = RUN["settings"] | {"model_family": {"name": family, "model_type": kind}} | settings
    write(folder, "run.json", RUN | {"settings": settings})
    write(folder, "adapter_model.safetensors", "")
    return folder


def head(folder):
    write_card(folder)
    return metadata_load(folder / CARD)


def test_a_scored_and_audited_adapters_card(tmp_path, golden):
    """All that a card can tell; and nothing of the benchmark's texts, nor of where files lie."""
    folder = made_up(varied_results(tmp_path / "results") / "popd")
    judge = "qwen3guard:/srv/models/judge"
    change(folder, "summary_val.json", judge=judge, judge_check={"asr": {"judge": judge, "n": 60, "right": 57}})
    write(folder, "audit.json", controlled())
    text = write_card(folder).read_text(encoding="utf-8")
    for secret in (ASKED, ANSWERED, REFUSED, str(tmp_path), "/home/u", "/srv/models"):
        assert secret not in text
    golden("model_card.md", text[: text.index("<!-- safeeraser card")])
    before = (folder / CARD).stat().st_mtime_ns
    assert write_card(folder).stat().st_mtime_ns == before, "the same run leaves the same file"


def test_a_whole_models_card_that_was_not_scored(tmp_path, golden):
    folder = made_up(tmp_path, "mini", "llava", model_path="dataset/mini/base_model", finetune="full", split="all")
    change(folder, "run.json", base={"weights": "f" * 64}, mask=None, parents=None, data=None, sittings=None, gpu=None)
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    golden("model_card_whole.md", write_card(folder).read_text(encoding="utf-8").partition("<!-- safeeraser card")[0])


def test_the_hub_reads_the_metadata(tmp_path):
    """As huggingface_hub does: each figure with judge and protocol, and the same from the file as into it."""
    folder = made_up(varied_results(tmp_path / "results") / "popd")
    told = head(folder)
    assert (told["base_model"], told["license"], told["library_name"]) == (
        "llava-hf/llava-1.5-7b-hf", "llama2", "peft"
    )  # fmt: skip
    loaded = ModelCard.load(folder / CARD)
    assert loaded.data.to_dict()["model-index"] == told["model-index"]
    found = {(one.metric_type, one.dataset_split): one for one in loaded.data.eval_results}
    both = {(metric, split) for metric in ("asr", "rr") for split in ("train", "val")}
    # What is withheld is not there; Specificity is, benchmark by benchmark.
    rest = {("rouge_l", "val"), ("sarr", "val"), ("exact_match", "testdev"), ("pope_f1", "test")}
    assert set(found) == both | rest
    asr = found["asr", "val"]
    assert asr.metric_value == 10.0 and asr.metric_name == "ASR-Gen (judge rules, protocol official)"
    known = {"judge": "rules", "protocol": "official", "low": 5.0, "high": 15.0, "n": 4}
    assert asr.metric_args == known | {"judge_check": "57 of 60 cases right"}
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


def test_a_figure_that_is_withheld_is_in_the_table_and_in_no_index(tmp_path):
    gone = metric(None, withheld="3.1% failed")
    beside = {"blank": {"forget": metric(0.25)}, "wrong": {"decoupled": metric(0.5)}}
    told = summary("val", gone, metric(0.5, 0.4, 0.6), None, None, **beside, provenance={"data_sha256": "0"})
    write(made_up(tmp_path), "summary_val.json", told)
    (result,) = head(tmp_path)["model-index"][0]["results"]
    assert [one["type"] for one in result["metrics"]] == ["rr"] and result["dataset"]["args"] == {"sha256": "0"}
    text = (tmp_path / CARD).read_text()
    rows = [line.split(" | ")[0] for line in text.splitlines() if " | val | " in line]
    assert rows == ["| ASR-Gen ↓", "| RR-Gen ↑"] and "| ASR-Gen ↓ | val | withheld |" in text


LLAVA = {"family": "llava-1.5-7b"}
FOLDER = {"revision": None, "weights": "f" * 64}


@pytest.mark.parametrize(
    ("of", "path", "base", "named", "licence"),
    [
        (LLAVA, "llava-hf/llava-1.5-7b-hf", FOLDER, "llava-hf/llava-1.5-7b-hf", "llama2"),
        (LLAVA, "me/llava", RUN["base"], "me/llava", None),
        # A folder may be called what the hub calls a model; and one of the hub's may lie in a folder.
        (LLAVA, "models/llava", FOLDER, None, None),
        (LLAVA, "/home/u/snapshots/llava", RUN["base"], None, None),
        (
            {"family": "qwen3-vl-4b", "kind": "qwen3_vl"},
            "Qwen/Qwen3-VL-4B-Instruct",
            FOLDER,
            "Qwen/Qwen3-VL-4B-Instruct",
            "apache-2.0",
        ),
        ({"family": "gemma-3-4b", "kind": "gemma3"}, "google/gemma-3-4b-it", FOLDER, "google/gemma-3-4b-it", None),
    ],
)
def test_the_base_is_named_where_it_is_the_hubs(tmp_path, of, path, base, named, licence):
    change(made_up(tmp_path, model_path=path, **of), "run.json", base=base)
    told, kind = head(tmp_path), of.get("kind", "llava")
    assert (told.get("base_model"), told.get("license")) == (named, licence) and kind in told["tags"]
    text = (tmp_path / CARD).read_text()
    assert "/home/u" not in text and "models/llava" not in text and ("PATH/TO/THE/BASE/MODEL" in text) is (not named)
    # A family asks in its own words: the release's wording is LLaVA's alone.
    assert ("ASSISTANT:" in text) is (kind == "llava") is ("llava" in text.lower())


def test_a_run_from_before_there_were_families_is_a_llavas(tmp_path):
    made_up(tmp_path, model_family={"name": "llava-1.5-7b"})
    assert "llava" in head(tmp_path)["tags"] and "ASSISTANT:" in (tmp_path / CARD).read_text()


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
        (pefts_template().partition("### Framework")[0], "nobody"),
        ("# My model", "somebody"),
        ("---\n: [\n---\n# My model", "somebody"),
    ],
)
def test_a_card_that_somebody_wrote_at_stays(tmp_path, text, whose):
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
    change(tmp_path, "run.json", finished=None)
    with pytest.raises(BadInput, match="no finished run of forget"):
        card(tmp_path)
    made_up(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds neither an adapter nor a model"):
        card(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with an adapter that was trained, and one with a model that was; the training itself wrote the cards."""
    from helpers import MODEL, TRAIN
    from helpers import trained as train
    from PIL import Image

    folder = tmp_path_factory.mktemp("trained")
    given = [f"data_path={TRAIN}", "dtype=float32", "workers=0", "limit=1", "max_train_steps=1", "forget_loss=gd"]
    train(folder / "whole", *given, f"model_path={MODEL}", "finetune=full")
    train(folder / "adapter", *given, f"model_path={folder / 'whole'}")
    Image.new("RGB", (40, 30), (200, 90, 20)).save(folder / "picture.jpg")
    return folder


def code_of(folder, base):
    """The card's code, with its places filled in."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder)).replace("PATH/TO/THE/BASE/MODEL", str(base))
    assert "PATH/TO" not in code and code.count("max_new_tokens=128") == 1
    return code.replace("max_new_tokens=128", "max_new_tokens=4")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "dtype"), [("adapter", "auto"), ("adapter", "bfloat16"), ("whole", "auto")])
def test_the_cards_own_code_runs(trained, kind, dtype, monkeypatch, capsys):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    text = (trained / kind / CARD).read_text()
    assert replaceable(text) and "**Not scored.**" in text and str(trained) not in text
    monkeypatch.chdir(trained)
    found = {}
    exec(code_of(trained / kind, trained / "whole").replace('"auto"', f'"{dtype}"'), found)
    assert found["answer"].shape[1] > found["inputs"]["input_ids"].shape[1]
    assert str(found["model"].dtype) == f"torch.{'float32' if dtype == 'auto' else dtype}"
    if kind == "adapter":
        plain = AutoModelForImageTextToText.from_pretrained(trained / "whole")
        plain = PeftModel.from_pretrained(plain, trained / kind)
        ours = found["model"].state_dict()
        assert all((ours[name].float() - each).abs().max() < 0.01 for name, each in plain.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "idefics3"])
def test_the_code_asks_another_family_in_its_own_words(name, tmp_path, monkeypatch, capsys):
    """Token by token what inference asks; Gemma 3's template writes the first token, and its tokenizer adds one."""
    import torch
    from helpers import ROOT, TRAIN
    from helpers import trained as train
    from PIL import Image

    from safeeraser import model as models

    base = ROOT / "tests" / "data" / "families" / name / "model"
    given = [f"data_path={TRAIN}", "dtype=float32", "workers=0", "limit=1", "max_train_steps=1", "forget_loss=gd"]
    folder = train(tmp_path / "adapter", *given, f"model_path={base}")
    Image.new("RGB", (40, 30), (200, 90, 20)).save(tmp_path / "picture.jpg")
    monkeypatch.chdir(tmp_path)
    found = {}
    exec(code_of(folder, base), found)
    assert capsys.readouterr().out.strip()
    turn = models.Turn(Image.open("picture.jpg").convert("RGB"), "What is in this picture?")
    asked = models.load_preprocessor(str(base)).encode(turn)
    assert found["inputs"]["input_ids"][0].tolist() == asked.input_ids
    assert torch.equal(found["inputs"]["pixel_values"], asked.inputs["pixel_values"])
