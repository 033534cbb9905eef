"""Inference on each family: by its page's decoder and by the plain path, in any batch, stopped, shared, attacked."""

import json
import shutil
import subprocess
import sys
import time

import psutil
import pytest
import torch
from helpers import RECORDED, ROOT, VAL, read_lines, run
from transformers import GenerationConfig

from safeeraser import model as models
from safeeraser.benchmark.family import families
from safeeraser.benchmark.records import read_records
from safeeraser.generation import DECODERS, Asked, Batched
from safeeraser.generation.sampling import Generation
from safeeraser.infer.memory import row_bytes
from safeeraser.infer.requests import Selection, build_requests

from .recorded import Recorded, picture
from .trajectory import assert_follows, forget

# One of each decoder; of the continuous ones the one whose positions are three-dimensional, with features in depth.
ENDS_OF_THE_RANGE = ("gemma3", "qwen3_vl")


@pytest.fixture(params=ENDS_OF_THE_RANGE)
def one(request):
    return Recorded(request.param)


@pytest.fixture(scope="module")
def mixed():
    """All that is asked about two records: on two pictures each, on another's and on none, some of it several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(RECORDED)
        views = ("forget", "decoupled", "retain", "image_free", "swapped")
        requests = build_requests(read_records(VAL), Selection(views, ("Sex", "Weapon"), limit=1))
    # Not of the same height and width: the numbers of a picture's tokens differ where they follow its shape.
    assert len({picture(request.picture).size for request in requests if request.picture}) > 1
    return [Asked(request.picture, request.question, request.key) for request in requests]


def answered(kind, vlm, generation, size, asked):
    """The responses by their questions' keys."""
    given = kind(vlm, generation, size, show=picture, size=size_of).answer(asked)
    return {asked[number].key: text for ended in given for number, text in ended}


def size_of(path):
    return picture(path).size


def vlm_of(family):
    return models.VLM(family.model, family.preprocessor)


def test_sampled_in_any_batch_and_order(family, mixed):
    vlm = vlm_of(family)
    kind = DECODERS[vlm.decoder]
    generation = Generation(max_new_tokens=10)
    alone = answered(kind, vlm, generation, 1, mixed)
    assert None not in alone.values() and len(set(alone.values())) > len(alone) / 2
    assert answered(kind, vlm, generation, 7, mixed) == alone
    assert answered(kind, vlm, generation, 1000, mixed[::-1]) == alone
    # The plain path draws the same, also of families that need it not.
    assert answered(Batched, vlm, generation, 9, mixed) == alone


def test_the_plain_path_answers_letter_by_letter(family):
    asked = [Asked(row["picture"], row["question"], str(number)) for number, row in enumerate(family.rows)]
    found = answered(Batched, vlm_of(family), Generation(greedy=True, max_new_tokens=24), 36, asked)
    assert found == {str(number): row["response"] for number, row in enumerate(family.rows)}


def test_where_a_window_slides_the_rows_of_a_batch_begin_together(tmp_path):
    """Whatever the family's page says of its other models: gaps would count among the places of the window."""
    folder = shutil.copytree(Recorded("llava_next").path, tmp_path / "model")
    told = json.loads((folder / "config.json").read_text())
    told["text_config"]["sliding_window"] = 48
    (folder / "config.json").write_text(json.dumps(told))
    vlm = models.VLM.load(str(folder), torch.float32)
    vlm.model.eval()
    assert (vlm.family.decoder, vlm.decoder) == ("continuous", "batched")
    rows = Recorded("llava_next").rows[:12]
    asked = [Asked(row["picture"], row["question"], str(number)) for number, row in enumerate(rows)]
    generation = Generation(greedy=True, max_new_tokens=24)
    alone = answered(DECODERS["continuous"], vlm, generation, 1, asked)
    assert alone != {str(number): row["response"] for number, row in enumerate(rows)}, "the window makes a difference"
    assert answered(DECODERS[vlm.decoder], vlm, generation, 6, asked) == alone


def test_a_picture_is_encoded_once_for_all_its_questions(family, mixed):
    """By either path, and in the plain one over several batches; but where features go into the layers' depth too."""
    vlm = vlm_of(family)
    kind = DECODERS[vlm.decoder]
    shown = [one for one in mixed if one.picture]
    with_depth = "deepstack_visual_indexes" in family.config["vision_config"]
    for how in {kind, Batched} - ({Batched} if with_depth else set()):
        seen = []
        tower = family.model.base_model.get_submodule(vlm.family.vision_tower)
        hook = tower.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        try:
            answered(how, vlm, Generation(max_new_tokens=1), 5, shown)
        finally:
            hook.remove()
        assert 1 <= len(seen) <= len({one.picture for one in shown})


def test_the_plain_path_knows_what_cannot_be_answered(family, mixed, monkeypatch):
    """A prompt that fills the context, and an output that is not finite."""
    vlm, generation = vlm_of(family), Generation(max_new_tokens=3)
    plain = answered(Batched, vlm, generation, 8, mixed)
    prompts = Batched(vlm, generation, 1, show=picture, size=size_of).prompts(mixed)
    lengths = {one.key: len(prompt) for one, prompt in zip(mixed, prompts, strict=True)}
    monkeypatch.setattr(vlm.preprocessor, "context", max(lengths.values()))
    unread = {key: None for key, length in lengths.items() if length == max(lengths.values())}
    assert answered(Batched, vlm, generation, 8, mixed) == plain | unread
    hook = family.model.lm_head.register_forward_hook(
        lambda _, shown, logits: logits.index_fill(0, torch.tensor([0]), float("nan"))
    )
    try:
        first = answered(Batched, vlm, generation, 8, mixed[:4])
    finally:
        hook.remove()
    assert list(first.values()).count(None) == 1


def test_the_models_own_settings_draw_nothing(one, mixed, monkeypatch):
    """Such as a penalty on words that were there, which `generate` would add to what it is told."""
    vlm, generation = vlm_of(one), Generation(greedy=True, max_new_tokens=8)
    plain = answered(Batched, vlm, generation, 8, mixed[:8])
    own = GenerationConfig(repetition_penalty=5.0, eos_token_id=one.model.generation_config.eos_token_id)
    monkeypatch.setattr(one.model, "generation_config", own)
    assert answered(Batched, vlm, generation, 8, mixed[:8]) == plain
    assert one.model.generation_config is own


def test_processes_agree_on_each_token(one, mixed):
    """What one process drew is what all go on with."""
    vlm, said = vlm_of(one), []
    kind = DECODERS[one.preprocessor.family.decoder]
    word = one.preprocessor.tokenizer("Why", add_special_tokens=False)["input_ids"][0]
    agree = lambda tokens: said.append(len(tokens)) or torch.full_like(tokens, word)  # noqa: E731
    decoder = kind(vlm, Generation(greedy=True, max_new_tokens=3), 4, agree=agree, show=picture, size=size_of)
    texts = {text for ended in decoder.answer(mixed[:4]) for _, text in ended}
    assert texts == {one.preprocessor.tokenizer.decode([word] * 3).strip()} and said == [4] * 3


def test_what_a_picture_takes_is_counted_by_its_patches(family):
    """Of 14 or 16 pixels a side, in all the tiles that the processor makes, and one more."""
    shown = family.preprocessor.outline(lambda: (64, 48))
    vision = family.config["vision_config"]
    side = vision["patch_size"]
    pixels = shown.inputs["pixel_values"]
    patches = len(pixels) if pixels.dim() == 2 else pixels.numel() / 3 / torch.tensor(side).expand(2).prod().item()
    layers = vision.get("depth") or vision["num_hidden_layers"]
    counted = models.picture_bytes(family.model.config, shown.inputs, 2)
    assert counted == (patches + 1) * vision["hidden_size"] * (layers + 8) * 2
    assert pixels.device.type == "meta"
    text = family.model.config.get_text_config()
    counts = {"prompt": 80, "new_tokens": 40, "asks": 1, "pictures": 1}
    with_it, without = (row_bytes(text, 2, **counts, picture=each) for each in (counted, 0))
    assert with_it > without > 0


def test_every_page_names_a_decoder_that_there_is():
    assert {family.decoder for family in families().values()} == set(DECODERS)


GIVEN = ("--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 8)


def infer(family, out, *more):
    """The bytes of what ckpt_infer.py writes."""
    done = run("ckpt_infer", "--model_path", family.path, *GIVEN, "--output_file", out, *more)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


def launch(family, out, *more):
    """Start it as two processes."""
    file = ROOT / "config" / "accelerate" / "cpu_ddp.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", file, ROOT / "ckpt_infer.py"]
    command += ["--model_path", family.path, *GIVEN, "--output_file", out, *more]
    return subprocess.Popen(list(map(str, command)), cwd=RECORDED, text=True, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_batches_processes_and_kills_change_nothing(one, tmp_path):
    alone = infer(one, tmp_path / "one.json", "--batch_size", 1, "--image_free")
    assert infer(one, tmp_path / "seven.json", "--batch_size", 7, "--image_free") == alone
    process = launch(one, tmp_path / "two.json", "--image_free")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert (tmp_path / "two.json").read_bytes() == alone
    out, part = tmp_path / "killed.json", tmp_path / "killed.json.partial.jsonl"
    process = launch(one, out, "--image_free", "--batch_size", 1)
    deadline = time.monotonic() + 300
    while not (part.exists() and part.read_bytes().count(b"\n") > 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.kill()
    process.communicate()
    assert not out.exists()
    assert infer(one, out, "--image_free") == alone


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["noise", "suffix", "figstep"])
def test_attacks(one, tmp_path, attack):
    """On pictures, on words, and on both."""
    given = ("--attack", attack, "--limit", 1, "--categories", "Sex,Weapon")
    alone = infer(one, tmp_path / "one.json", *given, "--batch_size", 1)
    assert infer(one, tmp_path / "seven.json", *given, "--batch_size", 7) == alone
    assert infer(one, tmp_path / "plain.json", *given[2:]) != alone


@pytest.mark.slow
def test_how_much_of_an_adapter_and_rounded_weights(one, tmp_path):
    given = ("--greedy", "--limit", 1, "--categories", "Sex")
    plain = infer(one, tmp_path / "plain.json", *given)
    adapter = ("--checkpoint_path", one.adapter)
    none, half, whole = (
        infer(one, tmp_path / f"{scale}.json", *given, *adapter, "--adapter_scale", scale) for scale in (0, 0.5, 1)
    )
    assert none == plain and len({none, half, whole}) == 3
    assert whole == infer(one, tmp_path / "told.json", *given, *adapter)
    rounded = {kind: infer(one, tmp_path / f"{kind}.json", *given, "--quantization", kind) for kind in ("int4", "nf4")}
    assert len({plain, *rounded.values()}) == 3


@pytest.mark.slow
def test_probes_ask_and_change_nothing(one, tmp_path):
    """By the page's decoder, of a model with its adapter on: the run follows the recorded figures as without them."""
    probes = (f"probe.data_path={VAL}", "probe_every=2", "probe.prompts=3", "probe.max_new_tokens=6")
    folder = forget(one, tmp_path / "run", "popd", *probes)
    rows = read_lines(folder / "probe.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4]
    assert all(row[view]["length"] > 0 for row in rows for view in ("forget", "decoupled", "retain"))
    assert_follows(one, folder, "popd")
