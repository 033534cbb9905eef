"""The model card: its content, what it must leave out, which card it replaces, and (slow) that its code runs."""

import re

import pytest
from helpers import MODEL, TRAIN, trained
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image

from safeeraser.errors import BadInput
from safeeraser.report.model_card import CARD, card, replaceable, write_card

from .made_up_runs import ANSWERED, ASKED, REFUSED, RUN, audit, change, full_results, write


def made_up(folder, family="llava-1.5-7b", kind="llava", **settings):
    """The folder of a finished run that is not scored yet; its file of weights is empty."""
    of = {"name": family} | ({"model_type": kind} if kind else {})
    write(folder, "run.json", RUN | {"settings": RUN["settings"] | {"model_family": of} | settings})
    write(folder, "adapter_model.safetensors", "")
    return folder


def test_a_scored_and_audited_adapters_card(tmp_path, golden):
    """All that a card can show, but no text of the benchmark and no path of a file."""
    folder = made_up(full_results(tmp_path / "results", "varied") / "popd")
    judge = "qwen3guard:/srv/models/judge"
    change(folder, "summary_val.json", judge=judge, judge_check={"asr": {"judge": judge, "n": 60, "right": 57}})
    write(folder, "audit.json", audit())
    text = write_card(folder).read_text(encoding="utf-8")
    for secret in (ASKED, ANSWERED, REFUSED, str(tmp_path), "/home/u", "/srv/models"):
        assert secret not in text
    golden("model_card.md", text[: text.index("<!-- safeeraser card")])
    # The hub's library reads each figure, and Specificity for each benchmark. A withheld figure is not there.
    found = {(one.metric_type, one.dataset_split): one for one in ModelCard.load(folder / CARD).data.eval_results}
    both = {(metric, split) for metric in ("asr", "rr") for split in ("train", "val")}
    assert set(found) == both | {("rouge_l", "val"), ("sarr", "val"), ("exact_match", "testdev"), ("pope_f1", "test")}
    assert found["asr", "val"].metric_value == 10.0 and found["asr", "val"].metric_args["high"] == 15.0


def test_a_whole_models_card_that_was_not_scored(tmp_path, golden):
    folder = made_up(tmp_path, "mini", "llava", model_path="dataset/mini/base_model", finetune="full", split="all")
    change(folder, "run.json", base={"weights": "f" * 64}, mask=None, parents=None, data=None, sittings=None, gpu=None)
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    golden("model_card_whole.md", write_card(folder).read_text(encoding="utf-8").partition("<!-- safeeraser card")[0])


def test_a_card_that_somebody_wrote_at_stays_and_what_was_not_finished_has_none(tmp_path):
    pefts = f"{ModelCard.from_template(ModelCardData())}\n### Framework versions\n\n- PEFT 0.21.2"
    edited = pefts.replace("[More Information Needed]", "me", 1)
    made_up(tmp_path)
    for text in (edited, pefts + "\n\nMy words.", "# My model", "---\n: [\n---\n# My model"):
        (tmp_path / CARD).write_text(text)
        assert not replaceable(text)
        with pytest.raises(BadInput, match=r"README\.md: was edited, and is left alone; --overwrite"):
            write_card(tmp_path)
        assert (tmp_path / CARD).read_text() == text
    write_card(tmp_path, overwrite=True)
    ours = (tmp_path / CARD).read_text()
    assert replaceable(ours) and not replaceable(ours.replace("research", "business")) and not replaceable(ours + "\n")
    for text in (pefts, pefts.partition("### Framework")[0]):  # a card that only PEFT wrote may be replaced
        (tmp_path / CARD).write_text(text)
        assert replaceable(text) and write_card(tmp_path).read_text() == ours
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match="holds neither an adapter nor a model"):
        card(tmp_path)
    change(tmp_path, "run.json", finished=None)
    with pytest.raises(BadInput, match="no finished run of forget"):
        card(tmp_path)


def run_code(folder, base, *words, dtype="auto"):
    """Train on the base, run the card's code with its paths filled in, and return the variables that the code sets."""
    given = [f"data_path={TRAIN}", "dtype=float32", "workers=0", "limit=1", "max_train_steps=1", "forget_loss=gd"]
    trained(folder, *given, f"model_path={base}", *words)
    Image.new("RGB", (40, 30), (200, 90, 20)).save("picture.jpg")
    (code,) = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder)).replace("PATH/TO/THE/BASE/MODEL", str(base))
    assert "PATH/TO" not in code and code.count("max_new_tokens=128") == 1
    found = {}
    exec(code.replace("max_new_tokens=128", "max_new_tokens=4").replace('"auto"', f'"{dtype}"'), found)
    assert found["answer"].shape[1] > found["inputs"]["input_ids"].shape[1]
    return found


@pytest.mark.slow
def test_the_cards_own_code_runs(tmp_path, monkeypatch, capsys):
    """For a fully trained model, and for an adapter on this model; the training itself wrote the cards."""
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    monkeypatch.chdir(tmp_path)
    whole, adapter = tmp_path / "whole", tmp_path / "adapter"
    assert str(run_code(whole, MODEL, "finetune=full")["model"].dtype) == "torch.float32"
    ours = run_code(adapter, whole, dtype="bfloat16")["model"]
    text = (adapter / CARD).read_text()
    assert replaceable(text) and "**Not scored.**" in text and str(tmp_path) not in text
    assert str(ours.dtype) == "torch.bfloat16"
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(whole), adapter)
    ours = ours.state_dict()
    assert all((ours[name].float() - each).abs().max() < 0.01 for name, each in plain.state_dict().items())
