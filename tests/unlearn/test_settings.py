"""The page a user edits: its defaults, and what is said about a key that is unknown or of the wrong kind."""

import pytest
from helpers import ROOT, config
from omegaconf import OmegaConf

from safeeraser.errors import BadInput
from safeeraser.unlearn.composed import read_settings


def error_of(*overrides):
    with pytest.raises(BadInput) as error:
        read_settings(config(*overrides))
    return str(error.value)


def test_the_defaults_are_the_release_settings():
    read = read_settings(config())
    assert (read.LoRA.r, read.LoRA.alpha, read.LoRA.dropout) == (32, 256, 0.05)
    assert (read.lr, read.weight_decay, read.warmup_ratio, read.lr_scheduler_type) == (1e-4, 0.01, 0.06, "cosine")
    assert (read.num_epochs, read.batch_size, read.gradient_accumulation_steps) == (10, 1, 16)
    assert (read.max_grad_norm, read.seed, read.max_length) == (1.0, 233, 512)
    assert (read.tune_language_model, read.tune_mm_projector, read.tune_vision_tower) == (True, True, False)
    assert (read.data.name, read.bad_items) == ("safeeraser", "stop")
    assert read.model_path == "llava-hf/llava-1.5-7b-hf"


def test_the_two_recipes_have_the_same_switches():
    official, corrected = (
        OmegaConf.to_container(OmegaConf.load(ROOT / "config" / "recipe" / f"{name}.yaml"))
        for name in ("official", "corrected")
    )
    assert official.keys() == corrected.keys()
    assert official == {
        "name": "official",
        "capitalize": True,
        "decoupled": "retain_index",
        "shuffle": False,
        "end_of_answer": False,
        "kl_positions": "all",
        "training_system": "human",
        "weights": dict.fromkeys(["forget", "retain", "kl", "preference", "decoupled"]),
    }
    assert corrected == official | {
        "name": "corrected",
        "capitalize": False,
        "decoupled": "own_pair",
        "shuffle": True,
        "end_of_answer": True,
        "kl_positions": "answer",
        "training_system": "user",
    }


def test_a_split_is_all_or_categories():
    assert read_settings(config()).split == "all"
    assert read_settings(config("split=Violence")).split == ["Violence"]
    assert read_settings(config("split=[Violence,Sex]")).split == ["Violence", "Sex"]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+learning_rate=1", "no key 'learning_rate'"),
        ("+batchsize=1", "no key 'batchsize'; did you mean 'batch_size'?"),
        ("+LoRA.rank=8", "no key 'LoRA.rank'"),
        ("+recipe.shufle=true", "no key 'recipe.shufle'"),
        ("batch_size=two", "batch_size=two: "),
        ("batch_size=0", "batch_size=0: "),
        ("batch_size=1.5", "batch_size=1.5: "),
        ("lr=fast", "lr=fast: "),
        ("lr=-1", "lr=-1: "),
        ("lr=inf", "lr=inf: "),
        ("LoRA.alpha=inf", "LoRA.alpha=inf: "),
        ("seed=5000000000", "seed=5000000000: "),
        ("split=[]", "split=[]: must be all, or name a category"),
        ("LoRA.r=0", "LoRA.r=0: "),
        ("LoRA.dropout=1", "LoRA.dropout=1: "),
        ("LoRA.targets=[]", "LoRA.targets=[]: "),
        ("LoRA.init_lora_weights=pissa", "LoRA.init_lora_weights=pissa: must be true, false, gaussian or orthogonal"),
        ("seed=-1", "seed=-1: "),
        ("dtype=float64", "dtype=float64: "),
        ("recipe.kl_positions=some", "recipe.kl_positions=some: "),
        ("recipe.weights.decoupled=much", "recipe.weights.decoupled=much: "),
        ("lr_scheduler_type=cosin", "no schedule 'cosin'; did you mean 'cosine'?"),
        ("max_train_steps=0", "max_train_steps=0: "),
        ("report_to=mlflow", "report_to"),
        ("save_dir=null", "save_dir=None: "),
        ("model_path=???", "model_path"),
        ("model_path='${nowhere}'", "nowhere"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(override, says):
    error = error_of(override)
    assert error.startswith("config: ") and says in error and "\n" not in error


@pytest.mark.parametrize("value", ["-1", "abc", "[]", "[0,2]", "[1,x]", "1.5", "true"])
def test_save_steps_are_a_number_or_a_list_of_steps(value):
    with pytest.raises(BadInput, match=r"save_steps=.*: must be a whole number of at least 0, or a list of steps"):
        read_settings(config(f"save_steps={value}"))
    assert read_settings(config("save_steps=[1,2,8]")).save_steps == [1, 2, 8]
