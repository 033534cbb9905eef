"""All measures of one model, as an audit asks for them."""

import gc
import weakref

import pytest
import torch
from helpers import MODEL

from safeeraser.audit.inside import MEASURES, floor, measured, passes, quantity
from safeeraser.model import VLM

from .knowing import some_pairs, untouched


def test_all_measures_of_all_sets_and_never_two_models_at_once():
    alive = []

    def load():
        gc.collect()
        assert not any(each() for each in alive)
        vlm = VLM.load(str(MODEL), torch.float32)
        vlm.model.train()
        alive.append(weakref.ref(vlm.model))
        return vlm

    pairs = some_pairs()[:2]
    found = measured(load, load, {"pairs": pairs, "floor": floor(pairs)})
    assert len(alive) == 2 and list(found) == ["pairs", "floor"]
    for values in found.values():
        assert {"depth", "depth_1", "exact_3", "recall_10", "gap_10", "probe"} < values.keys()
        for name, own in values.items():
            assert own.keys() == {pair.key for pair in pairs}
            assert quantity(name).unit in ("nats", "share", "log10 rank") and "{" not in quantity(name).title
    assert found["floor"]["nll_true"] == pytest.approx(found["pairs"]["nll_other"], abs=1e-5)
    assert max(map(abs, found["pairs"]["depth"].values())) < 1e-6


def test_the_vanilla_model_is_loaded_only_where_it_is_asked():
    pairs = some_pairs()[:1]
    found = measured(untouched, lambda: pytest.fail("loaded"), {"": pairs}, ["likelihood"])[""]
    assert len(found) == 8 and "first 10 tokens" in quantity("rank_10").title
    with pytest.raises(KeyError):
        quantity("width_3")


def test_what_is_not_finite_is_not_told():
    vlm = VLM.load(str(MODEL), torch.float32)
    with torch.no_grad():
        vlm.model.get_decoder().norm.weight.fill_(float("nan"))
    found = measured(lambda: vlm, untouched, {"": some_pairs()[:1]})[""]
    for name, values in found.items():
        if not name.startswith("depth"):  # whose states lie before the norm
            assert set(values.values()) == {None}, name


def test_passes_are_the_answers_that_are_read():
    vlm, pairs, read = untouched(), some_pairs(), []
    hook = vlm.model.register_forward_pre_hook(
        lambda _, __, given: read.append(len(given["input_ids"])), with_kwargs=True
    )
    try:
        for name in ("likelihood", "probe"):
            measured(lambda: vlm, lambda: vlm, {"": pairs}, [name], batch_size=3)
            assert sum(read) == passes(len(pairs), 2, [name]), name
            read.clear()
    finally:
        hook.remove()
    assert passes(10, 32) == sum(passes(10, 32, [name]) for name in MEASURES) == 10 * (18 + 3 + 2 + 4)
