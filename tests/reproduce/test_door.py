"""`python -m safeeraser.reproduce` on the tiny model: a whole chain, what it refuses, its plan and its status."""

import json
import shlex
import sys
from unittest.mock import patch

import pytest
from helpers import MODEL, RECORDED, config

from safeeraser.benchmark.files import CONFIG
from safeeraser.infer.command_line import arguments as infer_arguments
from safeeraser.judge.costs import Price
from safeeraser.reproduce import __main__ as door
from safeeraser.reproduce.options import arguments, options_of
from safeeraser.reproduce.steps import runs_of
from safeeraser.score.command_line import arguments as score_arguments

# In place of a VQA benchmark, of which the tiny model has none: the figure is written down.
KNOWN = """import json, sys; json.dump({"value": 0.5, "n": 4}, open(sys.argv[1] + "/specificity.json", "w"))"""
PAGE = f"""
model_family: llava-mini
data: dataset
build: null
page: forget_lora
engine: null
judge: rules
beside: null
steps: [specificity]
specificity: python -c {shlex.quote(KNOWN)} {{run}}
specificity_check: null
forget_options: dtype=float32 workers=0 gradient_accumulation_steps=2 max_train_steps=2 save_steps=1
infer_options: --max_new_tokens=4 --dtype=float32
score_options: --max_blank=1
audit_options: modality --max_new_tokens=4 --dtype=float32 --steps=1 --limit=1 --max_blank=1
measured_forget: max_train_steps=1
measured_infer: --limit=1
jobs: 2
environment: {{OMP_NUM_THREADS: "1"}}
note: A test.
"""
CHAIN = ("infer_train", "infer_val", "score_train", "score_val", "specificity")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.yaml"
    file.write_text(PAGE.replace("{{", "{").replace("}}", "}"))
    return file


@pytest.fixture
def reproduce(page, monkeypatch, capfd):
    """Runs the command in this process; gives its exit code, and what was printed."""
    monkeypatch.chdir(RECORDED)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def run(out, *words):
        given = [f"--settings={page}", f"--model_path={MODEL}", "--model=mini", f"--out={out}", *words]
        return main(*given), *capfd.readouterr()

    return run


def main(*words):
    with patch.object(sys, "argv", ["reproduce", *words]), pytest.raises(SystemExit) as stop:
        door.main()
    return stop.value.code


def told(runs_folder):
    return {path: path.read_bytes() for path in runs_folder.rglob("*.*") if path.is_file()}


@pytest.fixture(scope="module")
def chain(page, tmp_path_factory):
    """A whole chain: the untouched model and PO+PD, with an audit."""
    out = tmp_path_factory.mktemp("chain") / "results"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(RECORDED)
        given = (f"--settings={page}", f"--model_path={MODEL}", "--model=mini", f"--out={out}")
        assert main(*given, "--methods=vanilla popd", "--audit") == 0
    return out


def test_one_command_leads_from_data_to_the_report(chain):
    for run, steps in (("vanilla", CHAIN), ("popd", ("unlearn", *CHAIN, "audit"))):
        marks = {path.stem: json.loads(path.read_text()) for path in (chain / "steps" / run).glob("*.json")}
        assert set(marks) == {*steps, "now"}
        assert all(marks[step]["exit_code"] == 0 and marks[step]["seconds"] > 0 for step in steps)
        assert all((chain / "steps" / run / f"{step}.log").is_file() for step in steps)
    runs = json.loads((chain / "summary.json").read_text())["runs"]
    assert runs["vanilla"]["specificity"] == 0.5 and runs["popd"]["generality"]["asr"] is not None
    assert "robustness" in runs["popd"] and "A test." in (chain / "table.md").read_text()
    assert not list((chain / "popd").glob("checkpoint-*")), "they are several times the adapter"


def test_the_same_command_passes_over_what_is_finished(chain, reproduce):
    before = told(chain / "steps")
    code, out, _ = reproduce(chain, "--methods=vanilla popd", "--audit")
    assert code == 0 and "[popd]" not in out and told(chain / "steps") == before


def test_the_status_touches_nothing(chain, reproduce):
    before = told(chain)
    code, out, _ = reproduce(chain, "--methods=vanilla popd ga", "--status")
    rows = {line.split()[1]: line for line in out.splitlines() if line.startswith("│")}
    assert code == 0 and rows["popd"].count("min") == 6 and rows["ga"].count("waiting") == 6
    assert told(chain) == before


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_touched(chain, reproduce):
    before = told(chain)
    words = ("--judge=openai", "--infer_options=--max_new_tokens 5", "--score_options=--max_blank 2", "--seeds=233 1")
    code, _, err = reproduce(chain, "--methods=vanilla popd", *words, "--forget_options=lr=-1")
    lines = err.strip().splitlines()
    assert code == 2 and all(line.startswith("error: ") for line in lines), err
    for run in ("vanilla", "popd"):
        (line,) = (line for line in lines if line.startswith(f"error: {chain / run}:"))
        changed = "lr=-1" if run == "popd" else "--max_new_tokens=5"
        assert changed in line and "--out" in line
    assert any("eval_all.py: --max_blank" in line or "eval_all.py: argument --max_blank" in line for line in lines)
    assert any("forget.py: config: lr" in line for line in lines)
    assert told(chain) == before


def test_a_judges_key_is_missed_before_anything_begins(tmp_path, reproduce):
    code, _, err = reproduce(tmp_path / "results", "--methods=vanilla", "--judge=openai")
    assert code == 2 and "eval_all.py: the judge openai needs a key" in err and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (("--methods=po popdd",), "no method 'popdd'; did you mean 'popd'"),
        (("--seeds=one",), "--seeds: must be whole numbers"),
        (("--settings=nowhere.yaml",), "nowhere.yaml: cannot be read"),
        (("--model=llava-1.5-70b",), "no such model; did you mean 'llava-1.5-7b'"),
        (("--accelerate_config=nowhere.yaml",), "--accelerate_config nowhere.yaml: no such file"),
        (("--score_options=--api_key secret",), "--api_key: not here"),
    ],
)
def test_bad_words_are_one_line(tmp_path, monkeypatch, capfd, words, says):
    monkeypatch.chdir(tmp_path)
    assert main(*words) == 2
    out, err = capfd.readouterr()
    assert says in err and len(err.splitlines()) == 1 and "secret" not in err + out and not list(tmp_path.iterdir())


def test_a_plan_without_data_says_what_is_not_measured(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main("--methods=popd", "--dry_run", "--accelerate_config=none") == 2
    out, err = capfd.readouterr()
    assert "no data here" in " ".join(out.replace("│", " ").split()) and "judging: not estimated" in out
    assert "dataset/all_train.json: no such file" in err and "needs a key" in err
    assert not list(tmp_path.iterdir())


def test_a_plan_measures_a_minute_and_counts_the_judges_calls(tmp_path, reproduce):
    words = ("--methods=vanilla popd", "--judge=openai@http://127.0.0.1:9/v1", "--score_options=--price 2,10")
    code, out, err = reproduce(tmp_path / "results", *words, "--dry_run")
    assert code == 0, err
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    (trained,) = (row for row in rows if row[0].startswith("unlearn popd"))
    assert int(trained[1]) == 2 * 2 and float(trained[2]) > 0
    (answered,) = (row for row in rows if row[0].startswith("infer, 4"))
    assert int(answered[1]) == 2 * (12 + 6) * (4 * 4 + 4) and float(answered[2]) > 0
    calls = {row[0]: row[2] for row in rows if len(row) == 5 and row[2].isdecimal()}
    assert calls["asr"] == str(2 * (12 + 6) * 4 * 3) and calls["sarr"] == str(2 * (12 + 6) * 4)
    assert Price(2, 10) and any(row[0] == "all" and float(row[-1]) > 0 for row in rows)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("name", ("mini", "real"))
def test_the_words_of_the_shipped_pages_are_understood(name, tmp_path):
    settings = CONFIG / "reproduce" / f"{name}.yaml"
    model = {"mini": "mini", "real": "llava-1.5-7b"}[name]
    given = arguments(None).parse_args([f"--model={model}", "--audit", "--specificity"])
    assert options_of(given) == options_of(
        arguments(None).parse_args([f"--model={model}", f"--settings={settings}", "--audit", "--specificity"])
    )
    runs = runs_of(options_of(given))
    assert [run.name for run in runs] == ["vanilla", "ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd"]
    assert [step.name for step in runs[-1].steps][:3] == ["unlearn", "infer_train", "infer_val"]
    for step in runs[-1].steps:
        words = step.words[step.words.index("forget.py") + 2 :] if step.name == "unlearn" else step.words[2:]
        if step.name == "unlearn":
            made = config(*(word.replace("{run}", str(tmp_path)) for word in words))
            assert made.forget_loss.name == "popd" and made.resume_from_checkpoint == "auto" and made.save_steps > 0
        elif step.name.startswith("infer"):
            infer_arguments().parse_args(words)
        elif step.name.startswith(("score", "agree")):
            score_arguments().parse_args(words)
