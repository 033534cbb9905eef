"""The eight methods as the paper defines them, from the YAML files through Hydra; and methods that make no sense."""

import pytest
from helpers import FURTHER, METHODS, MODEL, ROOT, TRAIN, config, refused, settings, write_json
from pydantic import ValidationError

from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.methods import TERMS, Method
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.terms import LOSSES

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


def test_prompt_decouple_is_one_switch_for_any_method():
    plain, decoupled = settings("forget_loss=npo"), settings("forget_loss=npo", "pd=0.5")
    assert written(plain.method) == [("npo", ["forget"], 1.0), ("nll", ["retain"], 1.0)]
    assert written(decoupled.method) == [*written(plain.method), ("nll", ["decoupled"], 0.5)]
    assert (decoupled.method.name, decoupled.method.title) == ("npo+pd", "NPO+PD")
    assert decoupled.save_dir == plain.save_dir.with_name("npo+pd")
    assert settings("forget_loss=npo+pd").method == settings("forget_loss=npo", "pd=1").method
    assert settings("forget_loss=npo+pd", "pd=0.5").model_dump() == decoupled.model_dump()
    # Then the method says all of it: what a run records is read back as the same run.
    told = decoupled.model_dump(mode="json")
    assert "pd" not in told and read_settings(from_keys(told)).model_dump(mode="json") == told
    # The paper's own, where its weights are 1.
    assert written(settings("forget_loss=po", "pd=1").method) == PUBLISHED["popd"]
    assert written(settings("forget_loss=none", "pd=1").method) == [
        ("nll", ["retain"], 1.0),
        ("nll", ["decoupled"], 1.0),
    ]
    assert settings("forget_loss=ga", "forget_loss.title=null", "pd=1").method.title == "ga+PD"
    assert settings("forget_loss=npo", "pd=1", "recipe.weights.decoupled=2").method.terms["decoupled"].weight == 2


def test_the_weight_of_retain_is_one_word_where_there_is_such_a_term():
    assert written(settings("forget_loss=gd", "retain=0.25").method)[1] == ("nll", ["retain"], 0.25)
    assert written(settings("forget_loss=gdpd", "retain=0").method)[1:] == [
        ("nll", ["retain"], 0.0),
        ("nll", ["decoupled"], 0.5),
    ]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        *(((f"{name}", "pd=1.0"), f"pd=1.0: {name} has prompt decouple as it is") for name in METHODS if "pd" in name),
        (("npo", "pd=0"), "pd=0: Input should be greater than 0"),
        (("npo", "pd=much"), "pd=much: Input should be a valid number"),
        (("ga", "retain=1"), "retain=1: ga has no term retain, but forget"),
        (("kl", "retain=1"), "retain=1: kl has no term retain, but forget, kl"),
        (("gd", "retain=-1"), "retain=-1: Input should be greater than or equal to 0"),
        (
            ("npo", "+forget_loss.terms.forget.betta=1"),
            "betta=1: the loss has no such key; did you mean 'beta'?",
        ),
        (("npo", "+forget_loss.terms.forget.position=all"), "did you mean 'positions'?"),
        (("npo", "forget_loss.terms.forget.beta=0"), "terms.forget.beta=0: Input should be greater than 0"),
        (("npo", "forget_loss.terms.forget.beta=a"), "terms.forget.beta=a: Input should be a valid number"),
        (("ga", "+forget_loss.terms.forget.beta=1"), "the loss has no such key; known: loss, positions, views, weight"),
        (("dpo", "forget_loss.terms.forget.views=[forget]"), "the loss dpo takes 2 views"),
        (("ceu", "forget_loss.terms.forget.views=[forget,retain]"), "the loss ceu takes 1 view"),
        (("rmu", "forget_loss.terms.forget.layer=-1"), "layer=-1: Input should be greater than or equal to 0"),
    ],
)
def test_a_word_that_a_method_does_not_take(words, says):
    name, *more = words
    with pytest.raises(BadInput) as error:
        settings(f"forget_loss={name}", *more)
    assert str(error.value).startswith("config: ") and says in str(error.value)


def test_parameters_left_out_are_the_sources(tmp_path):
    bare = {"name": "mine", "terms": {"forget": {"loss": "simnpo", "views": ["forget"], "weight": 1}}}
    method = Method.model_validate(bare)
    assert method.terms["forget"].parameters == {"beta": 4.5, "delta": 0.0} and method.terms["forget"].layer is None
    assert method.model_dump()["terms"]["forget"]["beta"] == 4.5  # recorded with the run
    assert Method.model_validate(method.model_dump()).terms == method.terms


@pytest.mark.parametrize("name", FURTHER)
def test_a_method_is_a_page_of_a_few_lines_that_says_what_its_loss_would(name):
    lines = (ROOT / "config" / "forget_loss" / f"{name}.yaml").read_text().splitlines()
    assert len(lines) <= 8
    method = settings(f"forget_loss={name}").method
    assert method.name == name and method.title.lower() == name
    assert method.terms["forget"].parameters == LOSSES[name].checked({}, ())
    assert method.needs_reference == (name in ("npo", "dpo", "undial", "rmu"))
    assert method.top == (7 if name == "rmu" else None)


def test_what_a_loss_is_given_beside_its_positions_is_checked_before_anything_is_touched(tmp_path):
    given = ("forget_loss=rmu", f"model_path={MODEL}", f"data_path={TRAIN}")
    says = "forget_loss.terms.forget.layer=7: the language model has 2 layers, numbered from 0"
    refused(tmp_path, "forget", *given, f"save_dir={tmp_path / 'run'}", says=says)
    refused(tmp_path, "forget", *given, f"save_dir={tmp_path / 'run'}", "dry_run=true", says=says)
    vector = write_json(tmp_path / "vector.json", [1, 2])
    words = ("forget_loss.terms.forget.layer=1", f"forget_loss.terms.forget.control_vector={vector}")
    says = "vector.json: a vector of 2 numbers; the model's states have 64"
    refused(tmp_path, "forget", *given, *words, f"save_dir={tmp_path / 'run'}", says=says)


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
