"""Several processes under accelerate's launcher, as on several GPUs: shared requests, one output."""

import json

import pytest
from helpers import CHECKPOINT, MODEL, TRAIN, VAL, lines, run

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("engines")]

GIVEN = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 12)
GIVEN = (*GIVEN, "--checkpoint_path", CHECKPOINT)


def test_killed_together_and_gone_on_with_by_one(launch, tmp_path):
    """Each process has saved its own part; a run with another number of processes resumes both."""
    (folder := tmp_path / "out").mkdir()
    out, alone = folder / "p.json", tmp_path / "alone.json"
    parts = [folder / "p.json.partial.jsonl", folder / "p.json.partial.1.jsonl"]
    launched = launch("cpu_ddp", tmp_path, ("ckpt_infer", *GIVEN, "--output_file", out, "--batch_size", 1))
    launched.kill_once(lambda: all(lines(part) > 3 for part in parts))
    kept = sum(lines(part) - 1 for part in parts)
    assert 6 <= kept < 120 and not out.exists()
    assert run("ckpt_infer", *GIVEN, "--output_file", out).returncode == 0
    assert {path.name for path in folder.iterdir()} == {"p.json", "p.run.json"}
    assert run("ckpt_infer", *GIVEN, "--output_file", alone).returncode == 0
    assert out.read_bytes() == alone.read_bytes()


def test_two_processes_that_learn_an_attack_give_the_output_of_one(launch, tmp_path):
    """To the bit the output of one process with another batch size."""
    given = ("--eval_file", TRAIN, "--attack", "refusal_direction", "--skip", 1, "--only", "forget", "--limit", 1)
    (folder := tmp_path / "out").mkdir()
    one, two = tmp_path / "one.json", folder / "two.json"
    good, said = launch("cpu_ddp", tmp_path, ("ckpt_infer", *GIVEN, *given, "--output_file", two)).end()
    assert good, said
    assert json.loads(two.with_suffix(".run.json").read_text())["processes"] == 2
    assert {path.name for path in folder.iterdir()} == {"two.json", "two.run.json"}
    assert run("ckpt_infer", *GIVEN, *given, "--output_file", one, "--batch_size", 5).returncode == 0
    assert two.read_bytes() == one.read_bytes()


@pytest.mark.parametrize("name", ["typography", "suffix", "told", "soft_prompt", "refusal_direction", "pgd", "pruned"])
def test_an_attacked_run_that_was_stopped_resumes_to_the_same_answers(tmp_path, name):
    """What an attack learns or draws depends on the seed and the records, not on the responses that are left."""
    given = ("--eval_file", TRAIN, "--skip", 1, "--limit", 1, "--categories", "Sex,Weapon")
    given += ("--only", "forget,decoupled")
    paths = {kind: tmp_path / f"{kind}.json" for kind in ("plain", "whole", "out")}
    for kind in ("plain", "whole"):
        more = () if kind == "plain" else ("--attack", name)
        assert run("ckpt_infer", *GIVEN, *given, *more, "--output_file", paths[kind]).returncode == 0
    whole = json.loads(paths["whole"].read_text("utf-8"))
    assert whole != json.loads(paths["plain"].read_text("utf-8"))
    settings = json.loads((tmp_path / "whole.run.json").read_text())["settings"]
    assert settings["attack"] == name and len(settings["attack_code"]) == 12
    lines = [{"settings": settings}]
    for n in (0, 3):
        lines.append({"key": f"11/unsafe_pairs/{n}/sd_response", "response": "."})
        whole[11]["unsafe_pairs"][n]["sd_response"] = "."
    (tmp_path / "out.json.partial.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    more = ("--attack", name, "--batch_size", 3)
    assert run("ckpt_infer", *GIVEN, *given, *more, "--output_file", paths["out"]).returncode == 0
    assert json.loads(paths["out"].read_text("utf-8")) == whole
