"""By what a function is known to do the same as before: its code and what it uses, whatever is said of them."""

import sys

import pytest
from helpers import read_beside

from safeeraser.benchmark import sources
from safeeraser.benchmark.sources import code_of, used_by
from safeeraser.infer.attacks import ATTACKS

FILES = read_beside(__file__, "sources.yaml")
CHANGES = [("Says", "Tells", ""), ("why", "how", ""), ("x + ", "x - ", "one"), ("= 1", "= 2", "one two")]
CHANGES += [("return LIMIT", "return -LIMIT", "two"), ('"a", "b"', '"a", "c"', "one")]


@pytest.mark.parametrize(("old", "new", "others"), CHANGES)
def test_its_code_is_another_where_it_or_what_it_uses_does_something_else(tmp_path, monkeypatch, old, new, others):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lately", raising=False)  # of the case before
    (tmp_path / "lately").mkdir()
    codes = []
    for change in (("", ""), (old, new)):
        sources._bound.cache_clear()
        for name, text in FILES.items():
            (tmp_path / "lately" / f"{name}.py").write_text(text.replace(*change))
        codes.append({name: code_of(("lately.mine", name), room="lately") for name in ("one", "two")})
    assert {name for name in codes[0] if codes[0][name] != codes[1][name]} == {*others.split()}


def test_a_change_of_one_prompt_is_one_attacks_and_of_the_likelihood_that_of_all_that_go_by_it():
    assert len({attack.code for attack in ATTACKS.values()}) == len(ATTACKS)
    used = used_by(("safeeraser.infer.attacks.gradients", "pgd"), room="safeeraser.infer")
    assert {("safeeraser.infer.checkpoint", "nll"), ("safeeraser.infer.attacks", "Known")} < used.keys()
