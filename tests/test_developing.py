"""The examples of a guide in docs/ and of safeeraser/README.md are put into a copy of the package and run there."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from math import log
from pathlib import Path

import pytest
import yaml
from families.stranger import write_model
from helpers import MODEL, RECORDED, ROOT, read_lines, write_json
from safetensors.torch import load_file
from scoring import predicted

import safeeraser

pytestmark = pytest.mark.slow

CODE = (ROOT / "safeeraser" / "README.md").read_text()
PAGE = (ROOT / "docs" / "guides" / "add-a-method-a-family-a-judge.md").read_text() + CODE
BLOCKS = re.findall(
    r"^```(?:python|yaml)\n# (\S+?)(?:, (in|above) ([^\n]+))?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)
COMMANDS = [shlex.split(words) for words in re.findall(r"^ {4}python (.*)$", PAGE, re.MULTILINE)]
PLAIN = ["forget.py", "forget_loss=ga", "save_dir=results/plain"]  # a run to compare the page's switch with
FEW = ["dtype=float32", "workers=0", "max_train_steps=1", "gradient_accumulation_steps=1"]
# Runs the commands, then the report, in one process, so torch is loaded once.
CHILD = """
import json, runpy, sys
from pathlib import Path
import safeeraser
from helpers import run
assert Path(safeeraser.__file__).is_relative_to(Path.cwd()), safeeraser.__file__
done = [run(script, *words, cwd=Path.cwd()) for script, *words in json.loads(sys.argv[1])]
print(json.dumps([(each.returncode, each.stdout, each.stderr) for each in done]))
sys.argv[1:] = ["results", "--out", "report.html"]
runpy.run_module("safeeraser.report", run_name="__main__")
"""


def put(file, how, place, text):
    """Insert a block of the page where its first line says."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    at = len(lines)
    if how == "in":  # at the end of a table
        at = next(n for n, line in enumerate(lines) if re.match(rf"{place}\b.*[{{(]$", line.rstrip()))
        at = next(n for n in range(at, len(lines)) if lines[n].rstrip() in ("}", ")"))
    elif how == "above":
        at = next(n for n, line in enumerate(lines) if line.strip().startswith(place))
        text += "\n\n" * text.startswith(("def ", "class "))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join([*lines[:at], text, *lines[at:]]))


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the package and its config with everything that the page adds, and data for its commands."""
    folder = tmp_path_factory.mktemp("copy").resolve()
    for name in ("safeeraser", "config"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(RECORDED / "dataset", folder / "dataset")
    (folder / "models").mkdir()
    (folder / "models" / "ours").symlink_to(MODEL)
    write_model(folder / "models" / "aya")
    for name, how, place, text in BLOCKS:
        put(folder / name, how, place, text)
    train = json.loads((folder / "dataset" / "all_train.json").read_text())
    for pair in (pair for value in train for pair in value["unsafe_pairs"]):
        pair["model_response"] = f"This. {pair['model_response']}"
    write_json(folder / "dataset" / "all_train.json", train)
    records = json.loads((folder / "dataset" / "all_val.json").read_text())
    answers = [predicted(value) for value in records]
    answers[0]["unsafe_pairs"][0]["model_response1"] = "No."
    answers[0]["UnharmPair_text1"]["Prediction"] = "A cup that stands on"
    write_json(folder / "results" / "predictions.json", answers)
    return folder


@pytest.fixture(scope="module")
def done(copy, tmp_path_factory):
    """Exit code, output and errors of each command of the page, in order."""
    from chat_server import Server

    server, commands = Server(lambda *_: (200, {}, "Harm: some")), []
    for script, *words in (*COMMANDS, PLAIN):
        words = [word.replace("http://localhost:8000/v1", server.url) for word in words]
        if script == "forget.py":
            keys = {word.partition("=")[0] for word in words}
            words += [word for word in (*FEW, "model_path=models/ours") if word.partition("=")[0] not in keys]
        if script == "ckpt_infer.py":
            words += ["--dtype", "float32", "--max_new_tokens", "4", "--only", "retain", "--limit", "1"]
        commands.append([script.removesuffix(".py"), *words])
    env = os.environ | {"PYTHONPATH": f"{copy}{os.pathsep}{ROOT / 'tests'}", "OPENAI_API_KEY": "sk-none"}
    child = [sys.executable, "-c", CHILD, json.dumps(commands)]
    try:
        told = subprocess.run(child, cwd=copy, env=env, capture_output=True, text=True, timeout=300)
    finally:
        server.stop()
    assert told.returncode == 0, told.stderr
    said = json.loads(told.stdout.splitlines()[0])
    for command, (code, out, err) in zip(commands, said, strict=True):
        assert code in (0, None), (command, out, err)
    assert server.requests
    return said


def summary(copy, name):
    return json.loads((copy / "results" / f"{name}.json").read_text())


def test_a_method_is_in_the_log_and_a_loss_begins_where_the_page_says(copy, done):
    (row,) = read_lines(copy / "results" / "poklpd" / "train_log.jsonl")
    assert row["terms"].keys() == {"preference", "kl", "decoupled"} and row["terms"]["kl"] == 0
    (row,) = read_lines(copy / "results" / "tnpo+pd" / "train_log.jsonl")
    assert row["terms"]["forget"] == pytest.approx(10 * log(2), rel=1e-5) and "6.931" in PAGE
    told = json.loads((copy / "results" / "tnpo+pd" / "run.json").read_text())
    assert told["title"] == "TNPO+PD" and told["settings"]["forget_loss"]["terms"]["forget"]["beta"] == 0.2


def test_a_step_a_hook_and_a_projector_are_in_log_checkpoint_and_adapter(copy, done):
    results, linear = copy / "results", "multi_modal_projector.linear_1.weight"
    logs = {name: read_lines(results / name / "train_log.jsonl") for name in ("sign", "mean", "again")}
    told = json.loads((results / "sign" / "run.json").read_text())
    assert logs["sign"][0]["moved"]["by"] > 0 and told["title"] == "GD+SignSAM"
    first, second = logs["mean"]
    assert first["loss_mean"] == first["loss"]
    assert second["loss_mean"] == pytest.approx(0.9 * first["loss"] + 0.1 * second["loss"])
    assert [row["loss_mean"] for row in logs["again"]] == [second["loss_mean"]]
    files = (results / "scaled" / "adapter_model.safetensors", MODEL / "model.safetensors")
    scaled, base = (next(each for name, each in load_file(file).items() if name.endswith(linear)) for file in files)
    moved = (scaled / base - 1).abs().max()
    assert 0 < moved < 0.011, "each is multiplied by 1 and about the rate of one step of Adam"


def test_a_family_is_told_trained_and_answers(copy, done):
    """The model folder alone decides its config file. families/test_new_family.py checks the computation."""
    dry = done[[("dry_run=true" in words) for words in COMMANDS].index(True)][1]
    counts = {name: count.replace(",", "") for name, count in re.findall(r"^ +(LoRA|projector) +([\d,]+)", dry, re.M)}
    record = summary(copy, "aya/popd/run")
    assert record["settings"]["model_family"]["name"] == "aya-vision-8b"
    assert {name: str(count) for name, count in record["trained_parameters"].items() if count} == counts
    for answers in ("untouched", "popd/predictions"):
        assert summary(copy, f"aya/{answers}")[0]["UnharmPair_text1"]["Prediction"]


def test_an_attack_judges_and_a_metric_are_in_the_record_of_the_run_and_in_the_report(copy, done):
    assert summary(copy, "leetspeak.run")["settings"]["attack"] == "leetspeak"
    assert summary(copy, "leetspeak")[0]["UnharmPair_text1"]["Prediction"]
    guarded, short = (summary(copy, name) for name in ("guarded_val", "short_val"))
    assert guarded["asr"]["judge"].startswith("wordguard") and guarded["asr"]["value"] == 1
    assert guarded["guards"].keys() == {"wordguard"}
    assert short["rr"]["judge"] == "short" and short["rr"]["value"] == pytest.approx(1 / short["rr"]["n"])
    found = summary(copy, "summary_val")
    assert found["ended"]["value"] == pytest.approx(1 - 1 / found["ended"]["n"])
    assert found["by_category"]["ended"].keys() == found["by_category"]["asr"].keys()
    assert "Ended ↑" in (copy / "report.html").read_text()


def test_a_control_and_a_measure_are_in_what_an_audit_takes(copy, done):
    rows = done[[script for script, *_ in COMMANDS].index("audit.py")][1].replace("│", " ")
    assert re.search(r"controls +clean +3 ", rows) and re.search(
        rf"audited +inside +1 +1 +0 +{13 * 24} ", rows
    )  # 24 questions


def test_a_switch_is_recorded_and_changes_the_loss(copy, done):
    first, plain = copy / "results" / "first", copy / "results" / "plain"
    recipes = [json.loads((run / "run.json").read_text())["settings"]["recipe"] for run in (first, plain)]
    assert [recipe["first_sentence"] for recipe in recipes] == [True, False]
    # Before the first step LoRA changes nothing, so the two differ by the answers alone.
    (one,), (other,) = (read_lines(run / "train_log.jsonl") for run in (first, plain))
    assert one["loss"] != pytest.approx(other["loss"], rel=1e-3)


def test_the_page_names_every_room_and_each_of_its_blocks_is_read():
    assert len(BLOCKS) == len(re.findall(r"^```(?:python|yaml)$", PAGE, re.MULTILINE)) and len(COMMANDS) > 9
    rooms = {path.name for path in Path(safeeraser.__file__).parent.iterdir() if (path / "__init__.py").is_file()}
    drawn = CODE.partition("```\n")[2].partition("```")[0]
    assert rooms <= set(re.findall(r"^  (\w+)/", drawn, re.MULTILINE))


def test_the_version_is_the_same_wherever_it_stands():
    (packaged,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]
    assert packaged == cited == safeeraser.__version__
    assert f"\n## {packaged}\n" in (ROOT / "CHANGELOG.md").read_text()
