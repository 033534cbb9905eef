"""A whole audit of another family: attacks on picture and prompt, relearning, rounding, scaling, and the report."""

import json

import pytest
import yaml
from helpers import TRAIN, VAL, run, trained

from safeeraser.infer.attacks import ATTACKS

from .recorded import on

pytestmark = pytest.mark.nightly

# As in tests/audit: one record of a category to train on, one to ask about.
GIVEN = ("--val_file", TRAIN, "--train_file", VAL, "--max_new_tokens", 4, "--judge", "rules", "--dtype", "float32")
GIVEN += ("--limit", 1, "--max_blank", 1, "--batch_size", 8)
PROTOCOL = {"rank": 4, "alpha": 8, "items": 2, "steps": [1, 2], "seeds": [1]}


@on("qwen3_vl")
def test_an_audit_of_another_family_measures_every_point(family, tmp_path):
    words = (f"model_path={family.path}", f"data_path={TRAIN}", "dtype=float32", "workers=0", "split=[Weapon]")
    more = ("lr=0.03", "max_train_steps=2", "gradient_accumulation_steps=2")
    folder = trained(tmp_path / "popd", *words, *more)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(PROTOCOL))
    done = run("audit", "all", "--checkpoint_path", folder, *GIVEN, "--relearn", tmp_path / "mine.yaml")
    assert done.returncode == 0, done.stderr
    card, groups = json.loads((folder / "audit.json").read_text()), {}
    for point in card["points"]:
        groups.setdefault((point["subject"], point["group"]), []).append(point["name"])
    # It cuts pictures into tiles, which one attack has no way with; and there are no instructions beside the data.
    reasons = [line for line in card["missing"] if "pgd: model family" not in line]
    assert len(card["missing"]) == 3 and reasons[0].endswith("instructions.json is not there")
    wanted = [name for name, attack in ATTACKS.items() if not attack.control and name != "pgd"]
    assert groups["audited", "attack"] == wanted
    assert groups["vanilla", "attack"] == [name for name in wanted if not ATTACKS[name].adapter]
    assert groups["audited", "quantization"] == ["int8", "int4", "nf4"] and len(groups["audited", "scaling"]) == 7
    assert groups["audited", "relearn_retain"] == groups["audited", "relearn_text"] == ["0", "1", "2"]
    inside = next(point for point in card["points"] if point["group"] == "inside")
    assert {"gap", "exact_3", "depth", "probe"} < inside["measures"].keys()
    assert run("safeeraser.report", folder).returncode == 0
    assert 'id="robustness"' in (folder / "report.html").read_text()
