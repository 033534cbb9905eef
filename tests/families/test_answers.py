"""Greedy answers of eight families letter by letter: batched, with an adapter, merged, and behind a server."""

import base64
import shutil

import pytest
import torch
from helpers import RECORDED, run, write_json
from infer.conftest import served
from openai import OpenAI
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GenerationConfig

from safeeraser import model as vlm
from safeeraser.benchmark.files import read_json
from safeeraser.generation import DECODERS, Asked
from safeeraser.generation.sampling import Generation

from .recorded import FOUR, Recorded, answers, on, picture

pytestmark = pytest.mark.slow

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def test_greedy_answers_of_a_batch(family, tmp_path):
    assert answers(family, tmp_path / "p.json", "--batch_size", 6) == family.responses()


def test_greedy_answers_with_an_adapter(family, tmp_path):
    """Of the first record, whose 12 items are the first 12 rows."""
    found = answers(family, tmp_path / "p.json", "--categories", "HateSpeech", "--checkpoint_path", family.adapter)
    assert found == family.responses(family.figures["with_adapter"])


@on(*FOUR)
def test_the_plain_path_answers_letter_by_letter(family):
    asked = [Asked(row["picture"], row["question"], str(number)) for number, row in enumerate(family.rows)]
    how = {"show": picture, "size": lambda path: picture(path).size}
    generation = Generation(greedy=True, max_new_tokens=24)
    decoder = DECODERS["batched"](vlm.VLM(family.model, family.preprocessor), generation, 36, **how)
    found = {asked[number].key: text for ended in decoder.answer(asked) for number, text in ended}
    assert found == {str(number): row["response"] for number, row in enumerate(family.rows)}


def command(action, *words):
    """`python -m safeeraser.model`, which must go well."""
    done = run("safeeraser.model", action, *words)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def merged(family, tmp_path_factory):
    """The family's adapter merged into its model."""
    out = tmp_path_factory.mktemp(family.name) / "merged"
    command("merge", family.adapter, out, "--model_path", family.path)
    return out


def files(folder):
    """A model's files but its weights, its configuration and what is noted of its making."""
    left_out = (WEIGHTS, CONFIG, "run.json")
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name not in left_out}


@on(*FOUR)
def test_a_merged_folder_is_read_by_plain_transformers(family, merged):
    """It holds what its base holds; and with what it holds itself, weights, what prepares the input, and what ends an
    answer, it answers letter by letter."""
    base = family.folder / "model"
    known = read_json(base / CONFIG)
    assert files(merged) == files(base) and read_json(merged / CONFIG) == {"torch_dtype": known["dtype"]} | known
    wanted, found = (load_file(folder / WEIGHTS) for folder in (base, merged))
    kinds = [{name: (value.dtype, value.shape) for name, value in each.items()} for each in (wanted, found)]
    assert kinds[0] == kinds[1]
    model, prepared = AutoModelForImageTextToText.from_pretrained(merged).eval(), vlm.load_preprocessor(str(merged))
    greedy = GenerationConfig.from_pretrained(merged, do_sample=False, max_new_tokens=24)
    for row, adapted in zip(family.rows, family.figures["with_adapter"], strict=False):
        inputs = prepared.join([prepared.encode(vlm.Turn(picture(row["picture"]), row["question"]))])
        output = model.generate(**inputs, generation_config=greedy)[0, inputs["input_ids"].shape[1] :]
        assert prepared.tokenizer.decode(output, skip_special_tokens=True).strip() == adapted["response"]


@on("gemma3")
def test_a_served_merged_folder_answers_letter_by_letter(family, merged, tmp_path):
    """The first record's rows, in the model's own words: no system text is sent. Gemma 3's head is tied."""
    with served(merged, tmp_path / "log.txt") as server:
        client = OpenAI(base_url=server.url, api_key="none")
        for row, adapted in zip(family.rows, family.figures["with_adapter"], strict=False):
            encoded = base64.b64encode((RECORDED / row["picture"]).read_bytes()).decode()
            shown = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}
            chat = [{"role": "user", "content": [shown, {"type": "text", "text": row["question"]}]}]
            asked = client.chat.completions.create(model=server.model, messages=chat, max_tokens=24, temperature=0)
            assert asked.choices[0].message.content.strip() == adapted["response"]


def test_a_merged_configuration_stays_in_the_words_of_its_base(tmp_path):
    """Those that the hub's folders have are of transformers 4, which reads no others."""
    family = Recorded("qwen2_5_vl")
    base = shutil.copytree(family.path, tmp_path / "base")
    told = read_json(base / CONFIG)
    rope = told["text_config"].pop("rope_parameters")
    told["text_config"] |= {"rope_theta": rope["rope_theta"], "torch_dtype": told.pop("dtype")}
    told["text_config"]["rope_scaling"] = {"type": "default", "mrope_section": rope["mrope_section"]}
    del told["text_config"]["dtype"], told["vision_config"]["dtype"]
    write_json(base / CONFIG, told)
    # What this machine has no use for goes along: the part for films, and how a server is to sample.
    write_json(base / "video_preprocessor_config.json", {"video_processor_type": "Qwen2VLVideoProcessor"})
    write_json(base / "generation_config.json", {"do_sample": False, "temperature": 0.9, "eos_token_id": [2, 0]})
    for name in ("vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model"):
        (base / name).write_text("{}")
    command("merge", family.adapter, tmp_path / "out", "--model_path", base, "--dtype", "bfloat16")
    told["text_config"]["torch_dtype"] = "bfloat16"
    assert read_json(tmp_path / "out" / CONFIG) == {"dtype": "bfloat16", "torch_dtype": "bfloat16"} | told
    assert vlm.load_model(str(tmp_path / "out"), "auto").dtype == torch.bfloat16
    assert files(tmp_path / "out") == files(base)


@on("gemma3", "internvl")
def test_a_head_of_its_own_stays_one_in_a_merged_folder(family, tmp_path):
    """Though the base's configuration says that it is tied: its weights say otherwise, and so does the merged one's."""
    base = shutil.copytree(family.path, tmp_path / "base")
    weights = load_file(base / WEIGHTS)
    embedded = next(weight for key, weight in weights.items() if key.endswith("embed_tokens.weight"))
    head = weights["language_model.lm_head.weight"] = embedded + 0.1 * torch.randn(embedded.shape)
    save_file(weights, base / WEIGHTS, {"format": "pt"})
    command("merge", family.adapter, tmp_path / "out", "--model_path", base)
    assert read_json(base / CONFIG)["tie_word_embeddings"] is True
    assert read_json(tmp_path / "out" / CONFIG)["tie_word_embeddings"] is False
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert torch.equal(model.get_output_embeddings().weight, head)
