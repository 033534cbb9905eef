"""The size `small`, from data to table: a stand-in language model of SmolLM2's architecture is taught to see,
unlearned, asked and scored by the same commands as the real one."""

import csv
import json
import os
import subprocess

import pytest
import torch
from helpers import ROOT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, LlavaForConditionalGeneration, PreTrainedTokenizerFast

from safeeraser.errors import BadInput
from safeeraser.mini import training
from safeeraser.mini.base_model import build as build_model
from safeeraser.mini.build import build
from safeeraser.mini.concepts import EVERY
from safeeraser.mini.language_model import SAID, said_unasked
from safeeraser.mini.questions import answers, questions
from safeeraser.mini.settings import read_settings
from safeeraser.mini.texts import SMALL
from safeeraser.model.load import family_of, load_preprocessor
from safeeraser.model.turns import Turn


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Settings for a build in seconds, on a Llama of random weights and a byte-level tokenizer with ChatML's tokens."""
    folder, tokenizer = tmp_path_factory.mktemp("language_model"), Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    words = {"special_tokens": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "vocab_size": 600}
    trainer = trainers.BpeTrainer(**words, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([*answers(SMALL), *questions(SMALL)], trainer)
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024, **names)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    more = {"num_key_value_heads": 1, "tie_word_embeddings": True, "max_position_embeddings": 1024}
    torch.manual_seed(5)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **sizes, **more)).save_pretrained(folder)
    fast.save_pretrained(folder)
    less = {"see_steps": 2, "speak_steps": 2, "speak_pictures": 2, "exam_pictures": 1, "exam_tokens": 4}
    less |= {
        "train_per_concept": 1,
        "dev_per_concept": 1,
        "val_per_concept": 1,
        "vqa": 4,
        "language_model": str(folder),
    }
    return read_settings("small").model_copy(update=less)


@pytest.fixture(scope="module")
def data(few, tmp_path_factory):
    """The benchmark that is built with the settings `few`."""
    folder = tmp_path_factory.mktemp("small") / "mini-small"
    build(folder, few)
    return folder


@pytest.mark.slow
def test_from_data_to_table(data, tmp_path, forks):
    page = tmp_path / "page.yaml"
    page.write_text("defaults: [mini-small, _self_]\nbuild: null\nbeside: null\nsteps: [language]\n")
    out = tmp_path / "out"
    words = [forks.python, "workflow/door.py", "--model=mini-small", "--methods=popd", f"--data={data}"]
    words += ["--infer_options=--max_new_tokens=4", "--forget_options=max_train_steps=2", f"--settings={page}"]
    words += [f"--model_path={data / 'base_model'}", f"--out={out}"]
    env = os.environ | {"PATH": f"{forks.folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    run, language = (json.loads((out / "popd" / name).read_text()) for name in ("run.json", "language.json"))
    assert run["settings"]["model_family"]["name"] == "mini-small" and run["settings"]["dtype"] == "bfloat16"
    assert run["settings"]["batch_size"] == 4 and run["trained_parameters"]["LoRA"] and run["finished"]
    assert language["questions"]["n"] == 50 and language["unseen"]["harmful"]["n"] == 18
    (row,) = csv.DictReader((out / "table.csv").read_text().splitlines())
    assert row["method"] == "PO+PD" and row["asr_gen_value"] != ""


@pytest.mark.slow
def test_it_speaks_in_the_language_models_own_form_wherever_it_lies(data, tmp_path):
    """Otherwise it would be treated as LLaVA-1.5, which has another chat format."""
    folder = data / "base_model"
    preprocessor, told = load_preprocessor(str(folder)), json.loads((folder / "config.json").read_text())
    assert LlavaForConditionalGeneration.from_pretrained(folder).config.image_seq_length == 16
    assert family_of(str(folder)).name == "mini-small"
    (tmp_path / "config.json").write_text(json.dumps(told | {"model_family": "mini-smal"}))
    with pytest.raises(BadInput, match="names model_family 'mini-smal'"):
        family_of(str(tmp_path))
    place, decode = preprocessor.place(lambda: (96, 96)), preprocessor.tokenizer.decode
    for text in (text for concept in EVERY for text in SMALL.about(concept)):
        row = preprocessor.encode_text(Turn(None, "What?", text, system="Be kind."), place, end_of_answer=True)
        asked = f"<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n{'<image>' * 16}\nWhat?<|im_end|>\n"
        assert decode(row.input_ids) == f"{asked}<|im_start|>assistant\n{text}<|im_end|>"
        assert decode([label for label in row.labels if label >= 0], skip_special_tokens=True) == text


@pytest.mark.slow
def test_the_language_model_is_taken_over_whole_and_what_it_says_unasked_rehearsed(few, tmp_path, monkeypatch):
    """Its weights, tied head and tokens stay, with a token added for the picture. The seed alone decides its texts."""
    model, preprocessor = build_model(few, tmp_path)
    plain, words = (kind.from_pretrained(few.language_model) for kind in (LlamaForCausalLM, PreTrainedTokenizerFast))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(preprocessor.tokenizer) == len(words) + 1 == model.config.text_config.vocab_size
    ids = torch.tensor([words("People use it.")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=ids).logits[..., : len(words)], plain(input_ids=ids).logits)
    texts, again, other = (said_unasked(model, preprocessor.tokenizer, seed) for seed in (7, 7, 8))
    assert set(texts[:, 0].tolist()) == {preprocessor.tokenizer.convert_tokens_to_ids("<|im_start|>")}
    assert texts.shape == SAID and torch.equal(again, texts) and not torch.equal(other, texts)
    text, first = torch.arange(10, 74), {}
    monkeypatch.setattr(training, "said_unasked", lambda *_: text.repeat(4, 1))
    with torch.no_grad():
        alone = model(input_ids=text[None], labels=text[None]).loss.item()
    for rehearsed in (0, 3):
        model, losses = build_model(few, tmp_path)[0], []
        some = few.model_copy(update={"rehearsed": rehearsed, "speak_steps": 1})
        training.teach_to_speak(model, preprocessor, some, losses.append)
        first[rehearsed] = losses[0]
    assert first[3] - first[0] == pytest.approx(alone, rel=0.01)  # products are in bfloat16
