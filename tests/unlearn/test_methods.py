"""The eight methods as the paper defines them, from the YAML files through Hydra; and methods that make no sense."""

import pytest
from helpers import METHODS, config, settings
from pydantic import ValidationError

from safeeraser.errors import BadInput
from safeeraser.unlearn.methods import TERMS, Method
from safeeraser.unlearn.settings import read_settings

# l_f forget, l_r retain, l_p decoupled; (loss, views, weight)
PUBLISHED = {
    "ga": [("nll", ["forget"], -1.0)],
    "gd": [("nll", ["forget"], -1.0), ("nll", ["retain"], 1.0)],
    "kl": [("nll", ["forget"], -1.0), ("kl", ["retain"], 1.0)],
    "po": [("nll", ["refusal", "retain"], 1.0)],
    "gapd": [("nll", ["forget"], -1.0), ("nll", ["decoupled"], 0.5)],
    "gdpd": [("nll", ["forget"], -1.0), ("nll", ["retain"], 0.5), ("nll", ["decoupled"], 0.5)],
    "klpd": [("nll", ["forget"], -1.0), ("kl", ["retain"], 1.0), ("nll", ["decoupled"], 1.0)],
    "popd": [("nll", ["refusal", "retain"], 1.0), ("nll", ["decoupled"], 1.0)],
}
VIEWS = {
    "ga": ["forget"],
    "gd": ["forget", "retain"],
    "kl": ["forget", "retain"],
    "po": ["retain", "refusal"],
    "gapd": ["forget", "decoupled"],
    "gdpd": ["forget", "retain", "decoupled"],
    "klpd": ["forget", "retain", "decoupled"],
    "popd": ["retain", "decoupled", "refusal"],
}


def written(method):
    return [(term.loss, term.views, term.weight) for term in method.terms.values()]


@pytest.mark.parametrize("recipe", ["official", "corrected"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_has_the_published_terms_and_weights(name, recipe):
    method = settings(f"forget_loss={name}", f"recipe={recipe}").method
    assert method.name == name
    assert written(method) == PUBLISHED[name]
    assert method.views == VIEWS[name]
    assert method.needs_reference == (name in ("kl", "klpd"))
    for term in method.terms.values():
        wanted = "all" if term.loss == "kl" and recipe == "official" else "answer"
        assert term.positions == wanted


@pytest.mark.parametrize(("alias", "name"), [("idk", "po"), ("idkpd", "popd")])
def test_the_release_names_of_po_are_the_same_method(alias, name):
    assert settings(f"forget_loss={alias}").method == settings(f"forget_loss={name}").method


def test_a_title_is_the_methods_own_and_no_part_of_what_decides_a_result():
    titles = {name: settings(f"forget_loss={name}").method.title for name in (*METHODS, "idk", "idkpd")}
    plain, decoupled = ["GA", "GD", "KL", "PO"], ["GA+PD", "GD+PD", "KL+PD", "PO+PD"]
    assert list(titles.values()) == [*plain, *decoupled, "PO", "PO+PD"]
    assert settings("forget_loss=popd", "recipe.weights.decoupled=2").method.title == "PO+PD"
    read = settings("forget_loss=ga", "forget_loss.title=null")
    assert read.method.title is None and read.model_dump() == settings("forget_loss=ga").model_dump()


def test_the_save_dir_carries_the_method():
    """And the family's page: the one that is named, or that the model's configuration tells."""
    for family, folder in (("llava-1.5-7b", "llava-1.5-7b"), ("auto", "llava-1.5")):
        read = settings("forget_loss=idkpd", f"model_family={family}")
        assert str(read.save_dir) == f"results/{folder}/popd"


def test_a_recipe_sets_weights_in_one_place():
    method = settings("forget_loss=gdpd", "recipe.weights.decoupled=2", "recipe.weights.retain=0").method
    assert written(method) == [
        ("nll", ["forget"], -1.0),
        ("nll", ["retain"], 0.0),
        ("nll", ["decoupled"], 2.0),
    ]
    # A weight of a term that the method does not have changes nothing.
    assert settings("forget_loss=ga", "recipe.weights.decoupled=2").method == settings("forget_loss=ga").method


def test_a_weight_that_no_term_reads_is_refused():
    shipped = [settings(f"forget_loss={name}") for name in METHODS]
    assert {*TERMS} == {term for each in shipped for term in each.forget_loss.terms} == {*shipped[0].recipe.weights}
    with pytest.raises(BadInput) as error:
        settings("+recipe.weights.decopled=2")
    assert str(error.value).startswith("config: recipe.weights.decopled: no method has such a term; did you mean 'deco")
    # A method of one's own has its own.
    mine = ("+forget_loss.terms.mine={loss: nll, views: [retain], weight: 1}", "+recipe.weights.mine=2")
    assert written(settings(*mine).method)[-1] == ("nll", ["retain"], 2.0)


def test_a_weight_can_be_set_on_the_method_itself():
    assert written(settings("forget_loss=ga", "forget_loss.terms.forget.weight=-0.25").method)[0][2] == -0.25


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"a": {"loss": "nnl", "views": ["forget"], "weight": 1}}, "no loss 'nnl'; did you mean 'nll'"),
        ({"a": {"loss": "nll", "views": ["retian"], "weight": 1}}, "no view 'retian'; did you mean 'retain'"),
        ({"a": {"loss": "nll", "views": [], "weight": 1}}, "at least 1 item"),
        ({"a": {"loss": "nll", "views": ["forget"]}}, "weight"),
        ({"a": {"loss": "nll", "views": ["forget"], "weight": 1, "positions": "some"}}, "'answer' or 'all'"),
        ({"a": {"loss": "nll", "views": ["forget"], "weight": 1, "wieght": 2}}, "wieght"),
        ({}, "at least 1 item"),
    ],
)
def test_a_method_that_makes_no_sense(terms, says):
    with pytest.raises(ValidationError) as error:
        Method.model_validate({"name": "mine", "terms": terms})
    assert says in str(error.value)


def test_such_a_method_is_one_line_for_the_user():
    with pytest.raises(BadInput) as error:
        read_settings(config("forget_loss.terms.decoupled.loss=kll"))
    assert "forget_loss.terms.decoupled.loss=kll: no loss 'kll'; did you mean 'kl'?" in str(error.value)
