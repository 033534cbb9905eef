"""`python -m safeeraser.reproduce`: a whole chain, its plan, its status, what is finished stays, what is refused."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import MODEL, RECORDED, config, refused, run

import safeeraser.unlearn.config.compose  # noqa: F401 -- makes `NAME+pd` known to what composes a page
from safeeraser.benchmark.methods import WITH_REFERENCE
from safeeraser.infer.options import arguments as infer_arguments
from safeeraser.reproduce.estimate import kind
from safeeraser.reproduce.options import arguments, options_of
from safeeraser.reproduce.steps import runs_of
from safeeraser.score.options import arguments as score_arguments
from safeeraser.unlearn.objective.losses import LOSSES

# In place of a VQA benchmark, of which the tiny model has none: the figure is written down.
KNOWN = """import json, sys; json.dump({"value": 0.5, "n": 4}, open(sys.argv[1] + "/specificity.json", "w"))"""
REFUSED = yaml.safe_load(Path(__file__).with_name("cases.yaml").read_text())["words"]
PAGE = yaml.safe_load(Path(__file__).with_name("page.yaml").read_text())
PAGE |= {"specificity": f"python -c {shlex.quote(KNOWN)} {{run}}"}
CHAIN = ("unlearn", "infer_train", "infer_val", "score_train", "score_val", "specificity", "audit")


def reproduce(*words, cwd=RECORDED):
    return run("safeeraser.reproduce", *words, cwd=cwd)


@pytest.fixture
def forked(monkeypatch, forks):
    """The commands begin where this process is."""
    monkeypatch.setattr("sys.executable", str(forks.python))


@pytest.fixture
def given(tmp_path, monkeypatch):
    """The page's words; data and model are the recorded ones."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(PAGE))
    return f"--settings={page}", f"--model_path={MODEL}", "--model=mini"


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}


def runs(*words):
    return runs_of(options_of(arguments(None).parse_args(words)))


@pytest.mark.slow
def test_one_command_leads_from_data_to_the_report_and_does_nothing_twice(given, forked, tmp_path):
    out = tmp_path / "results"
    words = (*given, f"--out={out}", "--methods=popd")
    told = " ".join(reproduce(*words, "--dry_run").stdout.split())  # its table wraps
    assert "measured, popd" in told and "measured, untouched model" in told and not out.exists()
    assert reproduce(*words, "--audit").returncode == 0
    marks = {path.stem: json.loads(path.read_text()) for path in (out / "steps" / "popd").glob("*.json")}
    assert set(marks) == {"now", *CHAIN}
    assert all(marks[step]["exit_code"] == 0 and marks[step]["seconds"] > 0 for step in CHAIN)
    figures = json.loads((out / "summary.json").read_text())["runs"]["popd"]
    assert figures["specificity"] == 0.5 and figures["generality"]["asr"] is not None
    assert "robustness" in figures and "A test." in (out / "table.md").read_text()
    assert not list((out / "popd").glob("checkpoint-*")), "they are several times the adapter"
    before = content(out / "steps")
    done = reproduce(*words, "--audit")
    assert done.returncode == 0 and "[popd]" not in done.stdout and content(out / "steps") == before
    # The status, and whatever is wrong at once, touch nothing.
    before = content(out)
    done = reproduce(*given, f"--out={out}", "--methods=popd ga", "--audit", "--status")
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert rows["popd"].count("min") == len(CHAIN) and rows["ga"].count("waiting") == len(CHAIN)
    wrong = ("--judge=openai", "--score_options=--max_blank 2", "--seeds=233 1", "--forget_options=lr=-1")
    done = reproduce(*words, *wrong)
    assert done.returncode == 2 and all(line.startswith("error: ") for line in done.stderr.strip().splitlines())
    for said in ("/popd: unlearn was finished .*lr=-1; name another --out", "--max_blank", "forget.py: config: lr"):
        assert re.search(said, done.stderr), said
    assert content(out) == before


def test_a_plan_by_hand(given, tmp_path, monkeypatch):
    """`plan.txt`: hours by what was measured or, where that failed, by the views that another method reads."""
    shutil.copy(Path(__file__).with_name("played.sh"), python := tmp_path / "python")
    python.chmod(0o755)
    for name, value in (("COLUMNS", "200"), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.executable", str(python))
    words = (*given, f"--out={tmp_path}/results", "--methods=vanilla ga kl popd", "--seeds=233 1", "--jobs=2")
    judge = ("--judge=openai@http://127.0.0.1:9/v1", "--score_options=--price 2,10")
    done = reproduce(*words, *judge, "--audit", "--dry_run")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.strip() and not re.search("[━─┃]", line)]
    told = [" ".join(row) for row in rows if row[0] != "│"]
    assert "\n".join(told).replace("GPU-hours", "CPU-hours") == Path(__file__).with_name("plan.txt").read_text().strip()
    # Eight runs, eighteen records of four questions: three samples, and the benign picture's one.
    calls = {row[1]: int(row[5]) for row in rows if row[0] == "│" and row[1] != "all"}
    assert calls == {"asr": 8 * 18 * 12, "rr": 8 * 18 * 12, "sarr": 8 * 18 * 4, "gpt": 8 * 18 * 4}
    assert reproduce(*words, "--dry_run").stdout.endswith("over a network\ndisk: about 16 MiB at the most\n")
    assert not (tmp_path / "results").exists()


def test_what_takes_a_reference_is_known_as_unlearning_itself_knows_it():
    assert {name for name, loss in LOSSES.items() if loss.needs_reference} == WITH_REFERENCE
    assert kind("simnpo") == kind("gd") == (2, False) and kind("npo") == (2, True) and kind("npo+pd") == (3, True)


def test_a_plan_without_data_says_what_is_not_measured(tmp_path):
    done = reproduce("--model=mini", "--methods=popd", "--dry_run", cwd=tmp_path)
    assert done.returncode == 0 and "judging: not estimated" in done.stdout
    assert "dataset/mini: is made by the first step" in done.stdout and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("words", "says"), REFUSED)
def test_words_that_cannot_be_meant_are_refused_in_a_line_before_anything_is_made(tmp_path, monkeypatch, words, says):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "file").touch()
    own = {"defaults": ["mini", "_self_"], "checks": {"colours": "tool {run}"}}
    (tmp_path / "taken.yaml").write_text(yaml.safe_dump(own | {"checks": {"forget": "tool"}}))
    (tmp_path / "misspelt.yaml").write_text(yaml.safe_dump(own | {"steps": ["colors"]}))
    assert "secret" not in refused(tmp_path, "safeeraser.reproduce", *words, cwd=tmp_path, says=says)


@pytest.mark.parametrize("model", ("mini", "mini-small", "llava-1.5-7b", "qwen3-vl-4b"))
def test_the_words_of_the_shipped_pages_are_understood_by_the_commands(model, tmp_path):
    made = runs(f"--model={model}", "--audit", "--specificity", "--seeds=233 1")
    small = ["vanilla", "po", "popd", "klpd", "npo+pd"]
    nine = ["vanilla", "ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd"]
    names = small if model == "mini-small" else nine
    assert [each.name for each in made] == names + [f"{name}-seed1" for name in names]
    last = made[-1]
    done = [step.name for step in last.steps if not step.name.startswith("agree")]
    language = ["language"] if model == "mini-small" else []
    assert done == [*CHAIN[:-1], *language, "audit"] and made[0].steps[0].name == "infer_train"
    for step in last.steps:
        words = step.options(tmp_path)
        if step.name == "unlearn":
            page, *words = step.words[step.words.index("forget.py") + 1 :]
            words = [word.replace("{run}", str(tmp_path)) for word in words]
            asked = config(*words, page=page.removeprefix("--config-name="))
            assert (asked.forget_loss.name, asked.seed) == (last.method.partition("+")[0], 1)
            assert asked.resume_from_checkpoint == "auto" and asked.save_steps > 0
        elif step.name.startswith("infer"):
            asked = infer_arguments().parse_args(words)
            assert (asked.seed, asked.checkpoint_path, asked.output_file.parent) == (1, tmp_path, tmp_path)
        elif step.name.startswith(("score", "agree")):
            score_arguments().parse_args(words)


def test_a_page_of_ones_own_builds_on_a_shipped_one_and_makes_its_data(tmp_path):
    makes = "python -c 'import pathlib, sys; [pathlib.Path(word).mkdir() for word in sys.argv[1:]]' {data}"
    own = {"defaults": ["mini", "_self_"], "steps": ["colours"], "checks": {"colours": "tool {run}", "shapes": "tool"}}
    page = tmp_path / "page.yaml"
    page.write_text(yaml.safe_dump(own | {"build": makes}))
    words = ("--model=mini", f"--settings={page}", "--methods=po", f"--data={tmp_path}/my data")
    (one,) = runs(*words)
    last = one.steps[-1]
    assert (last.name, last.words, last.leaf) == ("colours", ("tool", "{run}", "--checkpoint_path={run}"), True)
    assert not {"specificity", "shapes"} & {step.name for step in one.steps}, "its `steps` does not name them"
    done = reproduce(*words, "--build_options='my words'", cwd=tmp_path)
    assert done.returncode == 2 and "my data/all_train.json: no such file" in done.stderr
    assert (tmp_path / "my data").is_dir() and (tmp_path / "my words").is_dir()
