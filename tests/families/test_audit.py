"""A whole audit of two other families: attacks on picture and prompt, relearning, rounding, scaling, and the report."""

import json

import pytest
from helpers import TRAIN, VAL, run

from safeeraser.infer.attacks import ATTACKS

from .recorded import Recorded

pytestmark = pytest.mark.slow

# As in tests/audit: one record of a category to train on, one to ask about.
GIVEN = ("--val_file", TRAIN, "--train_file", VAL, "--max_new_tokens", 4, "--judge", "rules", "--dtype", "float32")
GIVEN += ("--steps", "1,2", "--limit", 1, "--max_blank", 1, "--batch_size", 8)


@pytest.mark.parametrize("name", ["smolvlm", "qwen3_vl"])
def test_an_audit_of_another_family(name, tmp_path):
    """Every point is measured; so are those of a run whose `run.json` tells of its family in fewer words, as before."""
    family, folder = Recorded(name), tmp_path / "popd"
    words = (f"model_path={family.path}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "split=[Weapon]")
    done = run("forget", *words, "lr=0.03", "max_train_steps=2", "gradient_accumulation_steps=2", f"save_dir={folder}")
    assert done.returncode == 0, done.stderr
    told = json.loads((folder / "run.json").read_text())
    told["settings"]["model_family"] = {"name": name, "model_path": family.path, "projector": "multi_modal_projector"}
    (folder / "run.json").write_text(json.dumps(told))
    done = run("audit", "all", "--checkpoint_path", folder, *GIVEN)
    assert done.returncode == 0, done.stderr
    card = json.loads((folder / "audit.json").read_text())
    groups = {}
    for point in card["points"]:
        groups.setdefault(point["group"], []).append(point["name"])
    assert card["missing"] == [] and groups["attack"] == groups["attack_vanilla"] == list(ATTACKS)
    assert groups["quantization"] == ["int8", "int4", "nf4"] and len(groups["scaling"]) == 7
    assert groups["relearn_retain"] == groups["relearn_forget"] == ["1", "2", "0"]
    assert run("safeeraser.report", folder).returncode == 0
    assert 'id="robustness"' in (folder / "report.html").read_text()
