"""scripts/reproduce.bash: a complete chain, its plan and status, finished steps that stay, and refusals."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from door import arguments, plan_of
from estimate import kind
from helpers import MODEL, ROOT, TRAIN, config, read_beside, refused
from hydra.core.config_store import ConfigStore

from safeeraser.benchmark.methods import WITH_REFERENCE
from safeeraser.errors import BadInput
from safeeraser.infer.options import arguments as infer_arguments
from safeeraser.score.options import arguments as score_arguments
from safeeraser.unlearn.objective.losses import LOSSES

# Stands in for a VQA benchmark, because there is none for the tiny model: writes a fixed figure.
KNOWN = """import json, sys; json.dump({"value": 0.5, "n": 4}, open(sys.argv[1] + "/specificity.json", "w"))"""
REFUSED = read_beside(__file__, "cases.yaml")["words"]
PAGE = read_beside(__file__, "page.yaml") | {"data": str(TRAIN.parent)}
PAGE |= {"specificity": f"python -c {shlex.quote(KNOWN)} {{run}}"}
PAGE["audit_options"] += f" --val_file={TRAIN}"
JOBS = read_beside(__file__, "cases.yaml")["jobs"]
DUAL = "--forget_options=recipe.weights.decoupled={at_most:0.3,start:0.5}"  # with braces, which are special to a shell
CHAIN = ("unlearn", "infer_train", "infer_val", "score_train", "score_val", "specificity", "audit")


@pytest.fixture
def given(tmp_path, monkeypatch, forks):
    """The words for a config file of the test, with the recorded data and model."""
    monkeypatch.setenv("PATH", f"{forks.folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(PAGE))
    return f"--settings={page}", f"--model_path={MODEL}", "--model=mini"


def reproduce(*words):
    """Call workflow/door.py as scripts/reproduce.bash does."""
    call = ["python", "workflow/door.py", *map(str, words)]
    return subprocess.run(call, cwd=ROOT, capture_output=True, text=True)


def content(folder):
    return {p: p.read_bytes() for p in folder.rglob("*.*") if p.is_file() and ".snakemake" not in p.parts}


def plan(*words):
    return plan_of(arguments().parse_args(words))


@pytest.mark.slow
def test_one_command_leads_from_data_to_the_report_and_does_nothing_twice(given, tmp_path):
    out = tmp_path / "results"
    words = (*given, f"--out={out}", "--methods=popd")
    done = reproduce(*words, "--audit")
    assert done.returncode == 0, done.stderr
    marks = {path.stem: json.loads(path.read_text()) for path in (out / "steps" / "popd").glob("*.done")}
    assert set(marks) == {*CHAIN}
    assert all(marks[step]["exit_code"] == 0 and marks[step]["seconds"] > 0 for step in CHAIN)
    figures = json.loads((out / "summary.json").read_text())["runs"]["popd"]
    assert figures["specificity"] == 0.5 and figures["generality"]["asr"] is not None
    assert "robustness" in figures and "A test." in (out / "table.md").read_text()
    assert not list((out / "popd").glob("checkpoint-*")), "they are several times the adapter"
    before, answers = content(out / "steps"), {path: path.read_bytes() for path in (out / "popd").glob("pred*.json")}
    done = reproduce(*words, "--audit")
    assert done.returncode == 0 and "[popd]" not in done.stdout and content(out / "steps") == before
    # --status and wrong options touch nothing.
    before = content(out)
    done = reproduce(*given, f"--out={out}", "--methods=popd ga", "--audit", "--status")
    rows = [line.split("\t") for line in done.stdout.splitlines() if line.startswith("steps/")]
    states = {tuple(row[0].split("/")[1:]): row[-2] for row in rows}
    assert {name: states["popd", f"{name}.done"] for name in CHAIN} == dict.fromkeys(CHAIN, "ok")
    assert {name: states["ga", f"{name}.done"] for name in CHAIN} == dict.fromkeys(CHAIN, "missing")
    done = reproduce(*words, "--judge=openai", "--score_options=--max_blank 2", "--infer_options=--limti 1")
    assert done.returncode == 2 and all(line.startswith("error: ") for line in done.stderr.strip().splitlines())
    assert "did you mean '--limit'" in done.stderr and "--max_blank" in done.stderr and content(out) == before
    wrong = reproduce(*words, "--seeds=233 1", "--forget_options=lr=-1")
    assert wrong.returncode == 2 and "error: forget.py: config: lr=-1" in wrong.stderr and "[popd]" not in wrong.stdout
    # A step that ended with another option runs again, and forget.py itself refuses to overwrite the earlier run.
    done = reproduce(*words, "--forget_options=lr=0.001")
    assert done.returncode == 1 and "have changed: steps/popd/unlearn.done" in done.stdout
    assert re.search(r"error: popd: unlearn failed: .*its run has another lr \(0.0001, now 0.001\)", done.stderr)
    assert all(path.read_bytes() == text for path, text in answers.items())


@pytest.mark.slow
def test_a_plan_by_hand(given, tmp_path, monkeypatch, forks):
    """`plan.txt`: hours from measured speeds. If measuring a method fails, its views scale another method's speed."""
    played = Path(__file__).with_name("played.sh").read_text()
    (python := tmp_path / "bin" / "python").parent.mkdir()
    python.write_text(played.replace("REAL", forks.python))
    python.chmod(0o755)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    for name, value in (("COLUMNS", "200"), ("CUDA_VISIBLE_DEVICES", ""), ("PATH", path)):
        monkeypatch.setenv(name, value)
    words = (*given, f"--out={tmp_path}/results", "--methods=vanilla ga kl popd", "--seeds=233 1", "--jobs=2")
    judge = ("--judge=openai", "--score_options=--price 2,10")
    done = reproduce(*words, *judge, "--audit", "--dry_run")  # without a key
    assert done.returncode == 0, done.stderr
    assert "note: without --dry_run this is refused: eval_all.py: the judge openai needs a key" in done.stderr
    jobs, told = re.split("This was a dry-run.*", done.stdout)
    assert JOBS.items() <= dict(re.findall(r"^(\w+) +(\d+)$", jobs, re.MULTILINE)).items()
    rows = [line.split() for line in told.splitlines() if line.strip() and not re.search("[━─┃]", line)]
    costs = [" ".join(row) for row in rows if row[0] != "│"]
    assert "\n".join(costs) == Path(__file__).with_name("plan.txt").read_text().strip()
    # Eight runs, 18 records of four questions each: three samples for the harmful picture, one for the benign one.
    calls = {row[1]: int(row[5]) for row in rows if row[0] == "│" and row[1] != "all"}
    assert calls == {"asr": 8 * 18 * 12, "rr": 8 * 18 * 12, "sarr": 8 * 18 * 4, "gpt": 8 * 18 * 4}
    assert reproduce(*words, "--dry_run").stdout.endswith("over a network\ndisk: about 16 MiB at the most\n")
    assert not (tmp_path / "results").exists()


def test_what_takes_a_reference_is_known_as_unlearning_itself_knows_it():
    assert {name for name, loss in LOSSES.items() if loss.needs_reference} == WITH_REFERENCE
    assert kind("simnpo") == kind("gd") == (2, False) and kind("npo") == (2, True) and kind("npo+pd") == (3, True)


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_words_that_cannot_be_meant_are_refused_in_a_line_before_anything_is_made(tmp_path, words, says):
    (tmp_path / "file").touch()
    own = {"defaults": ["mini", "_self_"], "checks": {"colours": "tool {run}"}}
    (tmp_path / "taken.yaml").write_text(yaml.safe_dump(own | {"checks": {"infer": "tool"}}))
    (tmp_path / "misspelt.yaml").write_text(yaml.safe_dump(own | {"steps": ["colors"]}))
    (tmp_path / "short.yaml").write_text(yaml.safe_dump({"model_family": "llava-mini"}))
    words = (f"--out={tmp_path}/out", *(word.replace("TMP", str(tmp_path)) for word in words))
    assert "secret" not in refused(tmp_path, "workflow/door", *words, says=says)


@pytest.mark.slow
@pytest.mark.parametrize("model", ("mini", "mini-small", "llava-1.5-7b", "qwen3-vl-4b"))
def test_the_words_of_the_shipped_pages_are_understood_by_the_commands(model, tmp_path):
    made = plan(f"--model={model}", f"--out={tmp_path}/out", "--audit", "--specificity", "--seeds=1", DUAL)
    names = ["vanilla", "ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd"]
    names = ["vanilla", "po", "popd", "klpd", "npo+pd"] if model == "mini-small" else names
    assert [*made.runs] == [f"{name}-seed1" for name in names]
    (tmp_path / "plan.json").write_text(made.model_dump_json())
    words = ("--configfile", tmp_path / "plan.json", "--directory", tmp_path, "-n", "--printshellcmds", "--cores=1")
    call = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile", *map(str, words)]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"'{DUAL.partition(chr(61))[2]}'" in done.stdout + done.stderr, done.stderr
    (text,) = (each for each in (done.stdout, done.stderr) if "workflow/step.py" in each)
    line = re.compile(r"RUN=(.*) && mkdir.*/steps/(\S+)\.done.* -- (?:python )?(.*)$", re.MULTILINE)
    commands = {mark: shlex.split(words.replace('"$RUN"', run)) for run, mark, words in line.findall(text)}
    language = ["language"] if model == "mini-small" else []
    steps = [mark.partition("/")[2] for mark in commands if mark.startswith("popd-seed1/")]
    assert {step for step in steps if not step.startswith("agree")} == {*CHAIN, *language}
    assert "vanilla-seed1/unlearn" not in commands and "vanilla-seed1/audit" not in commands
    for step in CHAIN[:5]:
        given = commands[f"popd-seed1/{step}"]
        given = given[given.index(next(word for word in given if word.endswith(".py"))) + 1 :]
        given = given[: given.index("&&")] if "&&" in given else given
        if step == "unlearn":
            page, *given = given
            asked = config(*given, page=page.removeprefix("--config-name="))
            assert (asked.forget_loss.name, asked.seed) == ("popd", 1)
            assert asked.resume_from_checkpoint == "auto" and asked.save_steps > 0
        elif step.startswith("infer"):
            asked = infer_arguments().parse_args(given)
            assert (asked.seed, str(asked.checkpoint_path)) == (1, str(asked.output_file.parent))
        else:
            score_arguments().parse_args(given)


def test_what_a_method_is_trained_with_decides_whether_it_is_trained_again(monkeypatch):
    """Its own file and row decide, not other methods' files and rows. Results are known by the name in the file."""
    made, store = plan("--model=mini"), ConfigStore.instance()
    for name in ("npo_here", "copied"):
        monkeypatch.setitem(store.repo["forget_loss"], f"{name}.yaml", None)  # removed again after the test
    before = {method: made.settings(method) for method in ("popd", "npo", "npo+pd")}
    assert len({*before.values()}) == 3
    terms = {"forget": {"loss": "npo", "views": ["forget"], "weight": 1.0, "beta": 0.5}}
    store.store(group="forget_loss", name="npo_here", node={"name": "npo_here", "terms": terms})
    store.store(group="forget_loss", name="copied", node={"name": "npo", "terms": terms})
    first = made.settings("npo_here")
    terms["forget"]["beta"] = 0.6
    store.store(group="forget_loss", name="npo_here", node={"name": "npo_here", "terms": terms})
    assert made.settings("npo_here") != first and made.settings("npo") == before["npo"]
    with pytest.raises(BadInput, match=r"copied\.yaml: its name is 'npo'; write 'name: copied' there"):
        made.settings("copied")


@pytest.mark.slow
def test_a_page_of_ones_own_builds_on_a_shipped_one_and_makes_its_data(given, tmp_path):
    makes = "python -c 'import pathlib, sys; [pathlib.Path(word).mkdir() for word in sys.argv[1:]]' {data}"
    own = {"defaults": ["mini", "_self_"], "steps": ["colours"], "checks": {"colours": "tool {run}", "shapes": "tool"}}
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(own | {"build": makes}))
    words = ("--model=mini", f"--settings={page}", "--methods=po", f"--data={tmp_path}/my data")
    made = plan(*words)
    assert made.steps == ("colours",) and made.measures["colours"] == 'tool "$RUN"'
    done = reproduce(*words, f"--out={tmp_path}/out", "--dry_run")
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    assert all(f"{part}: not estimated" in done.stdout for part in ("judging", "disk")) and "0.00" not in done.stdout
    assert f"{tmp_path}/my data: the first step makes it" in done.stdout
    done = reproduce(*words, f"--build_options='{tmp_path}/my words'", f"--out={tmp_path}/out")
    assert done.returncode == 2 and "my data/all_train.json: no such file" in done.stderr, done.stderr
    assert (tmp_path / "my data").is_dir() and (tmp_path / "my words").is_dir()
