"""The decoder and the plain batched path give the answers of transformers' own generation, whichever questions share a
batch. Questions that cannot be answered are reported."""

import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import RECORDED, VAL
from transformers import GenerationConfig

from safeeraser.benchmark.conversation import prompt
from safeeraser.benchmark.pictures import open_picture, picture_size
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.generation import Asked, Batched, Decoder
from safeeraser.generation.ahead import of_worker, prepared
from safeeraser.generation.context import SPARE
from safeeraser.generation.sampling import Generation
from safeeraser.infer.requests import Selection, build_requests
from safeeraser.model.turns import Turn
from safeeraser.model.vlm import VLM

BOTH = pytest.mark.parametrize("kind", [Decoder, Batched])


@pytest.fixture(scope="module")
def asked():
    """Questions of inference about two records, of many lengths, several per picture; and one without a picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(RECORDED)  # the recorded paths are relative to it
        views = ("forget", "decoupled", "retain", "image_free")
        requests = build_requests(read_records(VAL), Selection(views, ("Sex", "Weapon"), limit=1))
        pictures = {each.picture: each.picture.resolve() for each in requests if each.picture}
    given = [Asked(pictures.get(each.picture), each.question, each.key) for each in requests]
    return [*given[::6], Asked(None, "Why?", "none")]


def answers(answering, asked):
    """Every answer by its question's key, after a check that each question is answered once."""
    given = [ended for batch in answering.answer(asked) for ended in batch]
    assert sorted(number for number, _ in given) == list(range(len(asked)))
    return {asked[number].key: text for number, text in given}


def text(vlm, ids):
    return vlm.preprocessor.tokenizer.decode(ids, skip_special_tokens=True).strip()


@pytest.fixture(scope="module")
def more(asked):
    """A question whose answer has begun, and a question with another system text."""
    one = next(one for one in asked if one.picture)
    begun = Asked(one.picture, one.question, "begun", begun="It is a small")
    return [begun, Asked(one.picture, one.question, "system", system="Be kind.")]


@pytest.fixture(scope="module")
def greedy(vlm, asked, more):
    """The up to 12 token ids that transformers itself generates greedily for each question alone."""
    how = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=sorted(vlm.ends), pad_token_id=0)
    ids = {}
    for one in [*asked, *more]:
        picture = open_picture(one.picture) if one.picture else None
        row = vlm.encode(Turn(picture, one.question, one.begun or None, system=one.system))
        ids[one.key] = vlm.model.generate(**vlm.join([row]), generation_config=how)[0, len(row.input_ids) :].tolist()
    return ids


@pytest.fixture(scope="module")
def sampled(vlm, asked):
    """Answers sampled one at a time, with more tokens than a context has free places."""
    return answers(Decoder(vlm, Generation(max_new_tokens=SPARE + 5), 1), asked)


@pytest.mark.parametrize(("kind", "batch_size"), [(Decoder, 3), (Decoder, 1000), (Batched, 4)])
def test_the_batch_changes_nothing(vlm, asked, sampled, kind, batch_size):
    answering = kind(vlm, Generation(max_new_tokens=SPARE + 5), batch_size)
    assert answers(answering, asked[::-1]) == sampled
    assert answers(answering, asked[:1]) == {asked[0].key: sampled[asked[0].key]}, "asked again, otherwise"
    lengths = {len(vlm.preprocessor.tokenizer(text)["input_ids"]) for text in sampled.values()}
    assert len(lengths) > 4, "rows end at different times"


@pytest.mark.slow
@BOTH
def test_pictures_prepared_by_other_processes_change_nothing(vlm, asked, more, greedy, kind):
    """This holds even if a picture comes back under another system text. A picture that cannot be read is reported."""
    how = {"generation": Generation(greedy=True, max_new_tokens=12), "batch_size": 2}
    given = [*asked, *more, replace(more[1], system="Be quick.", key="once more")]
    for workers in (1, 2):
        said = answers(kind(vlm, **how, workers=workers), given)
        assert said.pop("once more") and said == {key: text(vlm, ids) for key, ids in greedy.items()}
    size = picture_size(asked[0].picture)
    with pytest.raises(BadInput, match=r"^gone\.png: picture not found$"):
        answers(kind(vlm, **how, size=lambda _: size, workers=2), [Asked(Path("gone.png"), "Why?")])


def test_shared_memory_that_is_full_is_told_rather_than_waited_for(vlm, asked):
    """A container's /dev/shm can be too small for some pictures."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(RuntimeError) as error:
            list(prepared(vlm.preprocessor, open_picture, [asked[0].picture] * 2, 1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "shared memory" in of_worker(error.value) or "File too large" in of_worker(error.value)


def test_a_response_depends_on_seed_key_and_settings(vlm, asked, sampled):
    """Equal keys give equal draws. Another key, seed or setting gives other draws."""
    one = asked[0]

    def said(key=one.key, **settings):
        decoder = Decoder(vlm, Generation(max_new_tokens=8, **settings), 2)
        return answers(decoder, [Asked(one.picture, one.question, key)])[key]

    others = [said("other"), said(seed=234), said(temperature=0.3), said(top_p=0.2), said(greedy=True)]
    assert sampled[one.key].startswith(said()) and len({said(), *others}) == 6


@BOTH
def test_greedy_is_what_transformers_generates(vlm, asked, more, greedy, kind):
    """transformers reads one prompt at a time, without left padding, shared beginnings or branches."""
    answering = kind(vlm, Generation(greedy=True, max_new_tokens=12), 5)
    assert answers(answering, [*asked, *more]) == {key: text(vlm, ids) for key, ids in greedy.items()}
    begun, system = (vlm.preprocessor.tokenizer.decode(ids) for ids in answering.prompts(more))
    assert begun.endswith("ASSISTANT: It is a small") and "Be kind." in system


@BOTH
@pytest.mark.parametrize("several", [True, False])
def test_each_of_a_models_ends_ends_a_response(vlm, asked, greedy, monkeypatch, kind, several):
    """A model's own ends count too, even if one is an ordinary word. The response is the text before the end."""
    said = {one.key: greedy[one.key] for one in asked[:5]}
    end = said[asked[0].key][5]
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [*vlm.ends, end] if several else end)
    generation = Generation(greedy=True, max_new_tokens=12)
    cut = answers(kind(VLM(vlm.model, vlm.preprocessor), generation, 16), asked[:5])
    assert cut == {key: text(vlm, ids[: ids.index(end)] if end in ids else ids) for key, ids in said.items()}
    assert cut != {key: text(vlm, ids) for key, ids in said.items()}


@BOTH
def test_a_prompt_that_fills_the_context_is_not_read(vlm, asked, monkeypatch, kind):
    """It changes nothing else: other questions about its picture are answered as they are without it."""
    generation = Generation(max_new_tokens=4)
    lengths = [len(ids) for ids in kind(vlm, generation, 1).prompts(asked)]
    longest = max(lengths)
    monkeypatch.setattr(vlm.preprocessor, "context", longest)
    fitting = [one for one, length in zip(asked, lengths, strict=True) if length < longest]
    given, without = (answers(kind(vlm, generation, 4), some) for some in (asked, fitting))
    assert len(without) < len(asked) and given == dict.fromkeys(given) | without
    monkeypatch.setattr(vlm.preprocessor, "context", longest + 1)
    assert None not in answers(kind(vlm, generation, 4), asked).values()


@BOTH
def test_a_response_ends_where_the_context_does(vlm, asked, greedy, monkeypatch, kind):
    generation = Generation(greedy=True, max_new_tokens=12)
    prompts = kind(vlm, generation, 4).prompts(asked)
    context = max(map(len, prompts)) + 3
    monkeypatch.setattr(vlm.preprocessor, "context", context)
    cut = {one.key: greedy[one.key][: context - len(ids)] for one, ids in zip(asked, prompts, strict=True)}
    assert answers(kind(vlm, generation, 4), asked) == {key: text(vlm, ids) for key, ids in cut.items()}


def test_without_a_picture_the_prompt_has_none(vlm, asked):
    without, shown = Decoder(vlm, Generation(), 1).prompts([Asked(None, "Why?"), Asked(asked[0].picture, "Why?")])
    image = vlm.preprocessor.picture_token
    assert (without.count(image), shown.count(image)) == (0, 16)
    assert without == vlm.preprocessor.tokenizer(prompt("Why?", "user").replace("<image>\n", ""))["input_ids"]


@BOTH
def test_an_output_that_is_not_finite_is_no_response(vlm, asked, greedy, kind):
    """Only its own row loses its response. Output after a response's end does not count."""
    answering = kind(vlm, Generation(greedy=True, max_new_tokens=6), 4)
    said, read = {one.key: greedy[one.key][:6] for one in asked}, set().union(*answering.prompts(asked))
    word = next(token for ids in said.values() for token in ids[1:-1] if token not in read)
    weight = vlm.model.get_input_embeddings().weight.data
    before = weight[word].clone()
    weight[word] = float("nan")
    given, weight[word] = answers(answering, asked), before
    assert given == {key: None if word in ids[:-1] else text(vlm, ids) for key, ids in said.items()}


@BOTH
def test_processes_that_share_a_model_take_their_tokens_from_one(vlm, asked, kind):
    """`agree` decides with which tokens they continue."""
    word = vlm.preprocessor.tokenizer("alpha", add_special_tokens=False)["input_ids"][0]
    answering = kind(vlm, Generation(max_new_tokens=3), 4, agree=lambda tokens: torch.full_like(tokens, word))
    said = vlm.preprocessor.tokenizer.decode([word] * 3).strip()
    assert set(answers(answering, asked[:3]).values()) == {said} and answers(answering, []) == {}


@BOTH
def test_a_picture_is_opened_and_encoded_once(vlm, asked, kind):
    opened, encoded = [], []
    hook = vlm.model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    pictured = [one for one in asked if one.picture]
    with hook:
        show = {"show": lambda path: opened.append(path) or open_picture(path)}
        answers(kind(vlm, Generation(max_new_tokens=2), 3, **show), pictured)
    assert sorted(opened) == sorted({one.picture for one in pictured}) and sum(encoded) == len(opened)


def test_a_question_is_read_once_for_its_samples_and_a_beginning_once_for_its_questions(vlm, asked):
    read = []
    hook = vlm.model.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    picture, decoder = next(one.picture for one in asked if one.picture), Decoder(vlm, Generation(max_new_tokens=1), 8)
    with hook:
        given = answers(decoder, [Asked(picture, "The same?", key) for key in "abcdefg"])
        length = len(decoder.prompts([Asked(picture, "The same?")])[0])
        assert read == [(1, length - 1), (1, 1)] and len(set(given.values())) > 1
        read.clear()
        answers(decoder, [Asked(picture, f"The {word}?", word) for word in ("alpha", "bravo", "kilo")])
    assert [rows for rows, _ in read] == [1, 3] and sum(tokens for _, tokens in read) <= length + 1
