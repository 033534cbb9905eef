"""The decoder: the same answers as transformers' own generation, whatever the batch, and nothing done twice."""

from collections import Counter

import pytest
import torch
from helpers import MODEL, RECORDED, VAL
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig

from safeeraser import model as models
from safeeraser.benchmark.conversation import IMAGE, prompt
from safeeraser.benchmark.pictures import open_picture
from safeeraser.benchmark.records import read_records
from safeeraser.generation import Asked, Decoder
from safeeraser.generation.context import SPARE, Context
from safeeraser.generation.sampling import Generation
from safeeraser.infer.requests import Selection, build_requests

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def vlm():
    loaded = models.VLM.load(str(MODEL), torch.float32)
    loaded.model.eval()
    return loaded


@pytest.fixture(scope="module")
def model(vlm):
    return vlm.model


@pytest.fixture(scope="module")
def preprocessor(vlm):
    return vlm.preprocessor


@pytest.fixture(scope="module")
def asked():
    """All that inference asks about two records, crossed questions too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(RECORDED)  # the recorded paths are relative to it
        views = ("forget", "decoupled", "retain", "image_free", "swapped")
        requests = build_requests(read_records(VAL), Selection(views, ("Sex", "Weapon"), limit=1))
        return [Asked(each.picture.resolve() if each.picture else None, each.question, each.key) for each in requests]


def answers(decoder, asked):
    """Every answer by its question's key; each is given once."""
    given = [ended for batch in decoder.answer(asked) for ended in batch]
    assert sorted(number for number, _ in given) == list(range(len(asked)))
    return {asked[number].key: text for number, text in given}


@pytest.fixture(scope="module")
def sampled(vlm, asked):
    """Sampled one at a time, of varying length: `</s>` comes early or late on a random model."""
    return answers(Decoder(vlm, Generation(max_new_tokens=2 * SPARE + 5), 1), asked)


@pytest.mark.parametrize("batch_size", [2, 7, 16, 1000])
def test_the_batch_changes_nothing(vlm, asked, sampled, batch_size):
    decoder = Decoder(vlm, Generation(max_new_tokens=2 * SPARE + 5), batch_size)
    assert answers(decoder, asked) == sampled
    assert answers(decoder, asked[::-1]) == sampled, "in reverse order, with a decoder that has been used"


def test_lengths_vary(preprocessor, sampled):
    """Else the tests above would not see rows that end at different times."""
    lengths = {len(preprocessor.tokenizer(text)["input_ids"]) for text in sampled.values()}
    assert len(lengths) > 10, lengths


def test_greedy_is_what_transformers_generates(vlm, model, asked):
    """One prompt at a time, without left padding, shared beginnings, or branches."""
    tokenizer = vlm.preprocessor.tokenizer
    ours = answers(Decoder(vlm, Generation(greedy=True, max_new_tokens=24), 16), asked)
    for one in asked:
        turn = models.Turn(open_picture(one.picture) if one.picture else None, one.question)
        batch = vlm.join([vlm.encode(turn)])
        output = model.generate(
            **batch,
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=24, eos_token_id=tokenizer.eos_token_id, pad_token_id=0
            ),
        )
        text = tokenizer.decode(output[0, batch["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert ours[one.key] == text


@pytest.mark.parametrize("several", [True, False])
def test_each_of_a_models_ends_ends_a_response(vlm, model, preprocessor, asked, monkeypatch, several):
    """Its own beside the tokenizer's, also one that is a word and no special token: what comes before it is given."""
    tokenizer, generation = preprocessor.tokenizer, Generation(greedy=True, max_new_tokens=24)
    whole = answers(Decoder(vlm, generation, 16), asked[:6])
    said = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in whole.values()]
    end = said[0][len(said[0]) // 2]
    monkeypatch.setattr(model.generation_config, "eos_token_id", [tokenizer.eos_token_id, end] if several else end)
    cut = answers(Decoder(models.VLM(model, preprocessor), generation, 16), asked[:6])
    for key, ids in zip(whole, said, strict=True):
        assert cut[key] == tokenizer.decode(ids[: ids.index(end)] if end in ids else ids).strip()
    assert cut != whole


def test_a_prompt_that_fills_the_context_is_not_read(vlm, preprocessor, asked, monkeypatch):
    """Nor is anything else changed by it: the others on its picture are answered as they are without it."""
    lengths = [len(ids) for ids in Decoder(vlm, Generation(), 1).prompts(asked)]
    longest = max(lengths)
    monkeypatch.setattr(vlm.preprocessor, "context", longest)
    fits = [length < longest for length in lengths]
    generation = Generation(max_new_tokens=8)
    given = answers(Decoder(vlm, generation, 4), asked)
    fitting = [one for one, fit in zip(asked, fits, strict=True) if fit]
    without = answers(Decoder(vlm, generation, 4), fitting)
    assert len(without) < len(asked) and given == dict.fromkeys(given) | without
    monkeypatch.setattr(vlm.preprocessor, "context", longest + 1)
    assert None not in answers(Decoder(vlm, generation, 4), asked).values()


def test_without_a_picture_the_prompt_has_none(vlm, asked):
    assert prompt("Why?", "user", picture=False) == prompt("Why?", "user").replace("<image>\n", "")
    picture = next(one.picture for one in asked if one.picture)
    without, shown = Decoder(vlm, Generation(), 1).prompts([Asked(None, "Why?"), Asked(picture, "Why?")])
    tokenizer = vlm.preprocessor.tokenizer
    image = tokenizer.convert_tokens_to_ids(IMAGE)
    assert (without.count(image), shown.count(image)) == (0, 16)
    assert without == tokenizer(prompt("Why?", "user", picture=False))["input_ids"]


@pytest.mark.parametrize("batch_size", [1, 16])
def test_nothing_is_done_twice(vlm, model, asked, monkeypatch, batch_size):
    """Each picture is opened and encoded once, its beginning read once, and each question once a batch at most."""
    opened, encoded, read = [], [], []
    hook = model.model.vision_tower.register_forward_pre_hook(
        lambda _, args, kwargs: encoded.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    one_read = Context.read

    def note(context, rows, inputs=None):
        read.extend(len(row) for row in rows if len(row) > 1)
        one_read(context, rows, inputs)

    monkeypatch.setattr(Context, "read", note)
    with_picture = [one for one in asked if one.picture]
    try:
        show = lambda path: opened.append(path) or open_picture(path)  # noqa: E731
        answers(Decoder(vlm, Generation(max_new_tokens=2), batch_size, show=show), with_picture)
    finally:
        hook.remove()
    pictures = {one.picture for one in with_picture}
    assert sorted(opened) == sorted(pictures) and sum(encoded) == len(pictures)
    whole = sum(map(len, Decoder(vlm, Generation(), 1).prompts(with_picture)))
    assert sum(read) < whole / 4


def test_a_question_is_read_once_for_its_samples(vlm, asked, monkeypatch):
    rows = []
    one_read = Context.read
    monkeypatch.setattr(
        Context, "read", lambda self, given, *more: rows.append(len(given)) or one_read(self, given, *more)
    )
    same = [Asked(asked[0].picture, "The same?", key) for key in "abcdefg"]
    given = answers(Decoder(vlm, Generation(max_new_tokens=1), 8), same)
    assert rows == [1, 1] and len(set(given.values())) > 1


def test_rows_are_replaced_while_others_go_on(model):
    """A context with rows put, selected and joined holds what reading each row alone holds."""
    torch.manual_seed(0)
    texts = [torch.randint(5, 400, (length,)).tolist() for length in (3, 9, 4, 20, 11)]

    def alone(row):
        context = Context(model)
        context.read([row])
        return context.logits[0]

    with torch.no_grad():
        context = Context(model)
        context.read([texts[0], texts[1]])
        other = Context(model)
        other.read([texts[2], texts[3]])
        for token in range(10, 10 + SPARE + 3):  # beyond the spare places
            context.read([[token], [token]])
            texts[0], texts[1] = [*texts[0], token], [*texts[1], token]
        context.put([1], other.select([1]))
        assert torch.allclose(context.logits, torch.stack([alone(texts[0]), alone(texts[3])]), atol=1e-5)
        both = context.join(other)
        both.read([[7], [8], [9], [10]])
        rows = [[*texts[0], 7], [*texts[3], 8], [*texts[2], 9], [*texts[3], 10]]
        assert torch.allclose(both.logits, torch.stack([alone(row) for row in rows]), atol=1e-5)
        short = both.select([2, 2])
        assert short.mask.shape[1] == len(texts[2]) + 1, "the gap before both is gone"
        longer = Context(model)
        longer.read([texts[4]])
        short.put([0], longer)  # longer than what is there
        short.read([[3], [4]])
        rows = [[*texts[4], 3], [*texts[2], 9, 4]]
        assert torch.allclose(short.logits, torch.stack([alone(row) for row in rows]), atol=1e-5)


def test_the_head_is_given_whole_rows_wherever_reading_ends(model):
    """With gaps between them a CPU takes hundreds of times as long. No hook stays behind."""
    head, shown = model.get_output_embeddings(), []
    told = head.register_forward_hook(lambda _, given, out: shown.append(given[0]))
    with torch.no_grad(), told:
        context = Context(model)
        context.read([[5, 6, 7], [8, 9, 10], [11, 12]])
        context.read([[13, 14], [15, 16], [17, 18]])
        context.read([[19], [20], [21]])
    assert [each.shape[:2] for each in shown] == [(3, 1)] * 3 and all(each.is_contiguous() for each in shown)
    assert not head._forward_pre_hooks


def test_what_overflowed_is_told_and_leaves_no_trace(model):
    """A row that is no longer finite, and the row that takes its place, shorter than it."""
    with torch.no_grad():
        context = Context(model)
        context.read([[5, 6, 7, 8], [9, 10, 11, 12]])
        for layer in context.cache.layers:
            layer.both[:, 0] = float("nan")
        fresh, alone = Context(model), Context(model)
        fresh.read([[3, 4]])
        alone.read([[3, 4, 20]])
        context.put([0], fresh)
        context.read([[20], [21]])
        assert torch.allclose(context.logits[0], alone.logits[0], atol=1e-5) and context.logits.isfinite().all()


def test_what_a_place_that_sees_nothing_becomes_reaches_no_answer(vlm, asked, monkeypatch):
    """Beginnings of several lengths are read together; some kernels make NaN of a row that is masked altogether."""
    generation, blind = Generation(greedy=True, max_new_tokens=12), []
    plain = answers(Decoder(vlm, generation, 1000), asked)
    attend = torch.nn.functional.scaled_dot_product_attention

    def spoil(query, key, value, attn_mask=None, **more):
        output = attend(query, key, value, attn_mask=attn_mask, **more)
        if attn_mask is None:
            return output
        sees = attn_mask.any(dim=-1)[..., None]
        blind.append(int((~sees).sum()))
        return output.masked_fill(~sees, float("nan"))

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", spoil)
    assert answers(Decoder(vlm, generation, 1000), asked) == plain
    assert any(blind) and None not in plain.values()


class Waits(TorchDispatchMode):
    """Counts what a GPU's host would have to wait for. Copies to the host are no operations here, so `Tensor.tolist` is
    counted by who uses this; numbers that fill a tensor go along with the call."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, called, types, args=(), kwargs=None):
        name = called._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(each is not None and each.dtype == torch.bool for each in args[1])
        sent = name == "lift_fresh" and args[0].dim()
        self.count[name] += name in ("_local_scalar_dense", "nonzero") or by_mask or bool(sent)
        return called(*args, **(kwargs or {}))


@pytest.mark.parametrize("greedy", [True, False])
def test_a_step_has_the_host_wait_three_times(vlm, monkeypatch, greedy):
    """For the tokens; in transformers, whether the mask has gaps; and for which draws need the sort."""
    tolist, steps = torch.Tensor.tolist, []

    def told(tensor):
        waits.count["tolist"] += 1
        steps.append(dict(+waits.count))
        waits.count.clear()
        return tolist(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", told)
    decoder = Decoder(vlm, Generation(greedy, max_new_tokens=12), 8)
    decoder.ends = set()  # all rows go on to the last step
    with Waits() as waits:
        answers(decoder, [Asked(None, " ".join(["alpha"] * words), str(words)) for words in range(1, 9)])
    each = {"tolist": 1, "_local_scalar_dense": 1} | ({} if greedy else {"nonzero": 1})
    assert steps[1:] == [each] * 11


def test_an_output_that_is_not_finite_is_no_response(vlm, asked, monkeypatch):
    read = Context.read

    def overflow(context, rows, inputs=None):
        read(context, rows, inputs)
        context.logits[0] = float("nan")

    monkeypatch.setattr(Context, "read", overflow)
    given = answers(Decoder(vlm, Generation(max_new_tokens=3), 8), asked[:8])
    assert None in given.values() and any(given.values())


def test_a_decoder_may_be_asked_again_otherwise(vlm, asked):
    decoder = Decoder(vlm, Generation(max_new_tokens=6), 4)
    answers(decoder, [Asked(asked[0].picture, "Alpha bravo charlie?", key) for key in "ab"])
    other = [Asked(asked[0].picture, f"Alpha {word}?", word) for word in ("echo", "kilo")]
    assert answers(decoder, other) == answers(Decoder(vlm, Generation(max_new_tokens=6), 4), other)


def test_an_answer_that_has_begun_is_gone_on_with(vlm, model, asked):
    """As transformers goes on from the same tokens; one that has not begun beside it is answered as ever."""
    tokenizer, pictured = vlm.preprocessor.tokenizer, [one for one in asked if one.picture][:2]
    begun = [Asked(one.picture, one.question, f"{one.key}+", begun="It is a small") for one in pictured]
    decoder = Decoder(vlm, Generation(greedy=True, max_new_tokens=24), 4)
    ours = answers(decoder, [*pictured, *begun])
    assert {one.key: ours[one.key] for one in pictured} == answers(decoder, pictured)
    for one, ids in zip(begun, decoder.prompts(begun), strict=True):
        assert tokenizer.decode(ids).endswith("ASSISTANT: It is a small"), tokenizer.decode(ids)[-40:]
        row = vlm.encode(models.Turn(open_picture(one.picture), one.question, one.begun))
        assert row.input_ids == ids
        config = GenerationConfig(do_sample=False, max_new_tokens=24, eos_token_id=sorted(vlm.ends), pad_token_id=0)
        theirs = model.generate(**vlm.join([row]), generation_config=config)[0, len(ids) :]
        assert ours[one.key] == tokenizer.decode(theirs, skip_special_tokens=True).strip()


def test_nothing_asked_is_nothing_answered(vlm):
    assert list(Decoder(vlm, Generation(), 4).answer([])) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_runs(preprocessor, asked, dtype):
    """Rounding may depend on the batch there, so that responses may differ; all are given."""
    half = models.VLM(models.load_model(str(MODEL), dtype).eval(), preprocessor)
    given = answers(Decoder(half, Generation(max_new_tokens=8), 16), asked)
    assert len(given) == len(asked) and len(set(given.values())) > len(asked) / 2
