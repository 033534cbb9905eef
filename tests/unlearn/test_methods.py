"""What each method is made of, how its weights, its step and its mask are set, and which of these are refused."""

import re
from pathlib import Path

import pytest
from helpers import MODEL, TRAIN, config, refused, write_json

from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings
from safeeraser.unlearn.methods import Dual
from safeeraser.unlearn.page import from_keys
from safeeraser.unlearn.steps import STEPS, Plain, Sam

from .built import checked, words

# Of each its title, "*" where it takes the reference, and its terms: weight, loss (views, parameters).
GOLDEN = Path(__file__).with_name("golden") / "methods.txt"
SHIPPED = dict(line.split(" = ") for line in GOLDEN.read_text().splitlines())


def written(read):
    """A run's method in one line."""
    terms = [
        f"{name} {term.weight if isinstance(term.weight, Dual) else f'{term.weight:g}'} "
        f"{term.loss}({' '.join([*term.views, *(f'{key}={value}' for key, value in term.parameters.items())])})"
        for name, term in read.method.terms.items()
    ]
    return f"{read.title}{'*' * read.method.needs_reference}: {', '.join(terms)}"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_method_has_its_terms_weights_and_parameters(name):
    read = checked(name)
    assert (read.method.name, written(read)) == (name, SHIPPED[name])
    assert read.method.top == (7 if name == "rmu" else None)
    views = re.findall(r"[( ](forget|retain|decoupled|refusal)(?=[ )])", written(read).replace(", ", ";"))
    assert read.method.views == sorted({*views}, key=("forget", "retain", "decoupled", "refusal").index)


def test_names_of_the_release_and_positions_of_a_recipe():
    assert checked("idk").method == checked("po").method and checked("idkpd").method == checked("popd").method
    for recipe, positions in (("official", "all"), ("corrected", "answer")):
        page = config("forget_loss=kl", f"recipe={recipe}", f"model_path={MODEL}")
        assert read_settings(page).method.terms["kl"].positions == positions
    # The folder carries the family's page, found by the model's configuration, and the method.
    assert str(checked("idkpd").save_dir) == "results/llava-1.5/popd"
    assert checked("npo", words("pd=0.5")).save_dir == checked("npo+pd").save_dir


DUAL = Dual(at_most=2, rate=0.5, start=0)
TERM = "forget_loss.terms.forget"
TWO = "{at_most: 2, rate: 0.5, start: 0}"
SET = [
    ("gd", "retain=0.25", "retain", 0.25),
    ("gdpd", "recipe.weights.decoupled=2", "decoupled", 2),
    ("ga", "recipe.weights.decoupled=2", "forget", -1),  # a term that it has not
    ("npo", "pd=0.5", "decoupled", 0.5),
    ("npo", "pd=1 recipe.weights.decoupled=2", "decoupled", 2),
    # A dual weight wherever weights are given; it takes the place of another whole, and a number takes its place.
    ("pdu", "forget_loss.terms.retain.weight.at_most=2", "retain", Dual(at_most=2)),
    ("gd", f"'forget_loss.terms.retain.weight={TWO}'", "retain", DUAL),
    ("gd", f"'retain={TWO}'", "retain", DUAL),
    ("gd", f"'recipe.weights.forget={TWO}'", "forget", DUAL),
    ("npo", f"'pd={TWO}'", "decoupled", DUAL),
    ("pdu", "retain=0.25", "retain", 0.25),
    ("pdu", "recipe.weights.retain=0.25", "retain", 0.25),
    ("pdu", "retain.at_most=2", "retain", Dual(at_most=2)),
    ("ga", "'forget_loss.terms.x={loss: nll, views: [retain], weight: 1}' recipe.weights.x=3", "x", 3),
]


@pytest.mark.parametrize(("name", "text", "term", "weight"), SET)
def test_a_weight_is_set_in_each_of_its_places(name, text, term, weight):
    method = checked(name, words(text)).method
    weights = {each: value.weight for each, value in method.terms.items()}
    assert weights == {each: value.weight for each, value in checked(name).method.terms.items()} | {term: weight}
    assert method.duals == ({term: weight} if isinstance(weight, Dual) else {})


def test_steps_and_masks_are_read_and_recorded():
    assert checked("gd").step == Plain() and checked("gd").mask is None
    assert [checked("npo", words(f"step.name={name}")).title for name in STEPS] == [
        "NPO",
        "NPO+SAM",
        "NPO+RS",
        "NPO+WA",
    ]
    read = checked("pdu", words("pd=1 step.name=sam step.rho=0.5 mask.top=0.3 mask.from=refusal"))
    told = read.model_dump(mode="json")
    assert "title" not in told["forget_loss"] and "pd" not in told
    assert told["step"] == {"name": "sam", "terms": "forget", "rho": 0.5}
    assert told["mask"] == {"top": 0.3, "from": "refusal", "against": "retain", "items": 32}
    assert read.views == ["forget", "retain", "decoupled", "refusal"] and "refusal" not in read.method.views
    again = read_settings(from_keys(told))
    assert again.step == Sam(rho=0.5) and again.model_dump(mode="json") == told
    # An earlier version had none of these keys, and of the projector another one alone.
    earlier = {key: value for key, value in told.items() if key not in ("step", "mask", "projector")}
    read = read_settings(from_keys(earlier | {"tune_mm_projector": False}))
    assert (read.step, read.mask, read.projector) == (Plain(), None, "frozen")


# By what the line says: a method and keys, of which the last is the one that is named.
REFUSED = {
    "greater than 0": ["npo pd=0", "gd retain.at_most=1 retain.rate=0", f"npo {TERM}.beta=0", "ga mask.top=0"],
    "than or equal to 0": ["gd retain=-1", "gd retain.at_most=1 retain.start=-1", f"rmu {TERM}.layer=-1"],
    "or equal to 0": ["ga step.name=sam step.rho=-1", "ga step.name=smooth step.std=-1"],
    "or equal to 1": ["ga mask.items=0", "ga mask.top=1.5", "ga step.name=average step.last=1.5"],
    "finite number": ["npo pd=.inf", "gd retain.at_most=.inf"],
    "did you mean 'beta'?": [f"npo {TERM}.betta=1"],
    "did you mean 'positions'?": [f"npo {TERM}.position=all"],
    "did you mean 'at_most'?": ["npo pd.at_mots=1"],
    "did you mean 'nll'?": [f"ga {TERM}.loss=nnl"],
    "did you mean 'retain'?": [f"ga {TERM}.views=[retian]"],
    "did you mean 'rho'?": ["ga step.name=sam step.roh=1"],
    "did you mean 'forget'?": ["ga mask.from=forgt"],
    "at least 1": [f"ga {TERM}.views=[]"],
    "the loss dpo takes 2 views": [f"dpo {TERM}.views=[forget,forget]", f"dpo {TERM}.views=[forget]"],
    "the loss ceu takes 1 view": [f"ceu {TERM}.views=[forget,retain]"],
    "has prompt decouple as it is": ["gapd pd=1.0"],
    "no term retain, but forget": ["ga retain=1"],
    "no step 'sma'; did you mean 'sam'?": ["ga step.name=sma"],
    "no term of none reads forget or refusal": ["none step.name=smooth"],
    "must be null, or have keys": ["ga mask=true"],
    "and both are retain": ["ga mask.from=retain"],
    "takes no mask": ["ga mask={} finetune=full"],
    "nothing to train": ["none data.views.retain.image=null tune_language_model=false finetune=full"],
}


@pytest.mark.parametrize(("says", "text"), [(says, text) for says, texts in REFUSED.items() for text in texts])
def test_what_makes_no_sense_is_refused_by_its_key(says, text):
    name, _, rest = text.partition(" ")
    with pytest.raises(BadInput) as error:
        checked(name, words(rest))
    line, key = str(error.value), rest.split()[-1].partition("=")[0]
    assert line.startswith("config: ") and says in line and "\n" not in line
    assert key in line or (key.rpartition(".")[0] or key.partition(".")[0]) in line


def test_a_view_that_the_data_lack_is_refused_for_a_mask():
    with pytest.raises(BadInput, match=r"mask.against=retain: data=safeeraser has no such view; known: forget"):
        read_settings(config("forget_loss=ga", "mask={}", "~data.views.retain"))


def test_layers_and_vectors_are_checked_against_the_model_before_anything_is_touched(tmp_path):
    given = ("forget_loss=rmu", f"model_path={MODEL}", f"data_path={TRAIN}", f"save_dir={tmp_path / 'run'}")
    refused(tmp_path, "forget", *given, says=f"{TERM}.layer=7: the language model has 2 layers")
    vector = write_json(tmp_path / "vector.json", [1, 2])
    more = (f"{TERM}.layer=1", f"{TERM}.control_vector={vector}", "dry_run=true")
    refused(tmp_path, "forget", *given, *more, says="vector.json: a vector of 2 numbers")
