"""`python -m safeeraser.reproduce` on the tiny model: a whole chain, what it refuses, its plan and its status."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from helpers import MODEL, RECORDED, ROOT, config

from safeeraser.errors import BadInput
from safeeraser.infer.command_line import arguments as infer_arguments
from safeeraser.reproduce import __main__ as door
from safeeraser.reproduce.check import jobs_at_fault
from safeeraser.reproduce.options import Settings, arguments, options_of, page_of, read_settings
from safeeraser.reproduce.steps import runs_of
from safeeraser.score.command_line import arguments as score_arguments

pytestmark = pytest.mark.slow

# In place of a VQA benchmark, of which the tiny model has none: the figure is written down.
KNOWN = """import json, sys; json.dump({"value": 0.5, "n": 4}, open(sys.argv[1] + "/specificity.json", "w"))"""
PAGE = {
    "model_family": "llava-mini",
    "data": "dataset",
    "build": None,
    "page": "forget_lora",
    "engine": None,
    "judge": "rules",
    "beside": None,
    "steps": ["specificity"],
    "specificity": f"python -c {shlex.quote(KNOWN)} {{run}}",
    "specificity_check": None,
    "forget_options": "dtype=float32 workers=0 gradient_accumulation_steps=2 max_train_steps=2 save_steps=1",
    "infer_options": "--max_new_tokens=4 --dtype=float32",
    "score_options": "--max_blank=1",
    # The training split is asked about, since it holds two records of each category.
    "audit_options": "modality --val_file=dataset/all_train.json --limit=1 --max_new_tokens=4 --max_blank=1",
    "measured_forget": "max_train_steps=1",
    "measured_infer": "--limit=1",
    "jobs": 2,
    "environment": {"OMP_NUM_THREADS": "1"},
    "note": "A test.",
}
CHAIN = ("unlearn", "infer_train", "infer_val", "score_train", "score_val", "specificity", "audit")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    file = tmp_path_factory.mktemp("page") / "page.yaml"
    file.write_text(yaml.safe_dump(PAGE))
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
    """A whole chain: PO+PD with an audit."""
    out = tmp_path_factory.mktemp("chain") / "results"
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(RECORDED)
        given = (f"--settings={page}", f"--model_path={MODEL}", "--model=mini", f"--out={out}")
        assert main(*given, "--methods=popd", "--audit") == 0
    return out


def test_it_starts_without_torch():
    code = "import sys, safeeraser.reproduce.__main__; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_command_leads_from_data_to_the_report(chain):
    marks = {path.stem: json.loads(path.read_text()) for path in (chain / "steps" / "popd").glob("*.json")}
    assert set(marks) == {"now", *CHAIN}
    assert all(marks[step]["exit_code"] == 0 and marks[step]["seconds"] > 0 for step in CHAIN)
    assert all((chain / "steps" / "popd" / f"{step}.log").is_file() for step in CHAIN)
    run = json.loads((chain / "summary.json").read_text())["runs"]["popd"]
    assert run["specificity"] == 0.5 and run["generality"]["asr"] is not None
    assert "robustness" in run and "A test." in (chain / "table.md").read_text()
    assert not list((chain / "popd").glob("checkpoint-*")), "they are several times the adapter"


def test_the_same_command_passes_over_what_is_finished(chain, reproduce):
    before = told(chain / "steps")
    code, out, _ = reproduce(chain, "--methods=popd", "--audit")
    assert code == 0 and "[popd]" not in out and told(chain / "steps") == before


def test_the_status_touches_nothing(chain, reproduce):
    before = told(chain)
    code, out, _ = reproduce(chain, "--methods=popd ga", "--audit", "--status")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert code == 0 and rows["popd"].count("min") == len(CHAIN) and rows["ga"].count("waiting") == len(CHAIN)
    assert told(chain) == before


def test_everything_that_is_wrong_is_told_at_once_and_nothing_is_touched(chain, reproduce):
    before = told(chain)
    words = ("--judge=openai", "--infer_options=--max_new_tokens 5", "--score_options=--max_blank 2", "--seeds=233 1")
    code, _, err = reproduce(chain, "--methods=popd", *words, "--forget_options=lr=-1")
    lines = err.strip().splitlines()
    assert code == 2 and all(line.startswith("error: ") for line in lines), err
    (line,) = (line for line in lines if line.startswith(f"error: {chain / 'popd'}:"))
    assert "unlearn was finished with other words, and is now to be done with lr=-1; name another --out" in line
    assert any("eval_all.py: --max_blank" in line or "eval_all.py: argument --max_blank" in line for line in lines)
    assert any("forget.py: config: lr" in line for line in lines)
    assert told(chain) == before


def test_a_judges_key_is_missed_before_the_data_are_made(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for words in (("--dry_run",), ()):
        assert main("--model=mini", "--methods=vanilla", "--judge=openai", *words) == 2
        assert "needs a key: set OPENAI_API_KEY" in capfd.readouterr().err and not list(tmp_path.iterdir())


def test_a_judges_key_is_missed_before_anything_begins(tmp_path, reproduce):
    code, _, err = reproduce(tmp_path / "results", "--methods=vanilla", "--judge=openai")
    assert code == 2 and "eval_all.py: the judge openai needs a key" in err and not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "words, says",
    [
        (("--methods=po popdd",), "no method 'popdd'; did you mean 'popd'"),
        (("--seeds=one",), "--seeds: must be whole numbers"),
        (("--out=file/results", "--dry_run"), "file is a file"),
        (("--settings=nowhere.yaml",), "nowhere.yaml: no such file"),
        (("--model=llava-1.5-70b",), "no such model; did you mean 'llava-1.5-7b'"),
        (("--model=qwen3-vl",), "a family, none of its models; say --model_path, or one of qwen3-vl-2b, qwen3-vl-4b, "),
        (("--accelerate_config=nowhere.yaml",), "--accelerate_config nowhere.yaml: no such file"),
        (("--score_options=--api_key secret",), "--api_key: not here"),
    ],
)
def test_bad_words_are_one_line(tmp_path, monkeypatch, capfd, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(*words) == 2
    out, err = capfd.readouterr()
    assert says in err and len(err.splitlines()) == 1 and "secret" not in err + out
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_plan_without_data_says_what_is_not_measured(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main("--methods=popd", "--dry_run") == 2
    out, err = capfd.readouterr()
    assert all("no such file" in line or "needs a key" in line for line in err.splitlines()), err
    assert "hours" not in out, "nothing is known that an estimate could be made of"
    assert "dataset/all_train.json: no such file" in err and "needs a key" in err
    assert main("--model=mini", "--methods=popd", "--dry_run") == 0
    out, _ = capfd.readouterr()
    assert "no data here" in " ".join(out.replace("│", " ").split()) and "judging: not estimated" in out
    assert "dataset/mini: is made by the first step" in out
    assert not list(tmp_path.iterdir())


def test_a_plan_measures_a_minute_and_counts_the_judges_calls(tmp_path, reproduce):
    words = ("--methods=vanilla popd", "--judge=openai@http://127.0.0.1:9/v1", "--score_options=--price 2,10")
    code, out, err = reproduce(tmp_path / "results", *words, "--dry_run")
    assert code == 0, err
    (trained,) = re.findall(r"unlearn popd +([\d,]+) +([\d.]+) +[\d.]+ +measured, popd", out)
    (answered,) = re.findall(r"infer, 4 files +([\d,]+) +([\d.]+) +[\d.]+ +measured", out)
    assert trained[0] == str(2 * 2) and answered[0] == str(2 * (12 + 6) * (4 * 4 + 4))
    assert float(trained[1]) > 0 and float(answered[1]) > 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    calls = {row[0]: row[2] for row in rows if len(row) == 5 and row[2].isdecimal()}
    assert calls["asr"] == str(2 * (12 + 6) * 4 * 3) and calls["sarr"] == str(2 * (12 + 6) * 4)
    assert any(row[0] == "all" and float(row[-1]) > 0 for row in rows)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("model", ("mini", "mini-small", "llava-1.5-7b", "qwen3-vl-4b"))
def test_the_words_of_the_shipped_pages_are_understood(model, tmp_path):
    given = arguments(None).parse_args([f"--model={model}", "--audit", "--specificity"])
    runs = runs_of(options_of(given))
    small = ["vanilla", "po", "popd", "klpd", "npo+pd"]
    nine = ["vanilla", "ga", "gd", "kl", "po", "gapd", "gdpd", "klpd", "popd"]
    assert [run.name for run in runs] == (small if model == "mini-small" else nine)
    assert [step.name for step in runs[-1].steps][:3] == ["unlearn", "infer_train", "infer_val"]
    files = [word.partition("=")[2] for step in runs[-1].steps for word in step.call(tmp_path) if "config_file" in word]
    assert len(files) == (0 if model.startswith("mini") else 3) and all(Path(file).is_file() for file in files)
    for step in runs[-1].steps:
        words = step.words[2:]
        if step.name == "unlearn":
            page, *words = step.words[step.words.index("forget.py") + 1 :]
            words = [word.replace("{run}", str(tmp_path)) for word in words]
            made = config(*words, page=page.removeprefix("--config-name="))
            assert (
                made.forget_loss.name == runs[-1].method.partition("+")[0]
                and made.resume_from_checkpoint == "auto"
                and made.save_steps > 0
            )
        elif step.name.startswith("infer"):
            infer_arguments().parse_args(words)
        elif step.name.startswith(("score", "agree")):
            score_arguments().parse_args(words)


def test_the_small_page_is_minis_but_for_what_it_names():
    mini, small = (read_settings(page_of(model)) for model in ("mini", "mini-small"))
    other = {name for name in Settings.model_fields if getattr(mini, name) != getattr(small, name)}
    assert other == {
        *("model_family", "data", "build", "methods", "steps", "specificity", "checks"),
        *("forget_options", "infer_options", "audit_options"),
    }
    assert small.build == mini.build.replace(" --out", " --size=small --out") and small.page == "mini"


def test_each_run_of_the_small_page_ends_with_its_language(tmp_path):
    words = ["--model=mini-small", "--methods=vanilla npo+pd", "--audit"]
    runs = runs_of(options_of(arguments(None).parse_args(words)))
    untouched, unlearned = ({step.name: step for step in run.steps} for run in runs)
    assert [*unlearned] == [
        *("unlearn", "infer_train", "infer_val", "score_train", "agree_train", "score_val", "agree_val"),
        *("specificity", "language", "audit"),
    ]
    data = Path("dataset/mini-small")
    told = {"--model_path": f"{data}/base_model", "--dtype": "bfloat16"}
    for name, module, where in (
        ("specificity", "safeeraser.mini.vqa", {"--data": str(data), "--dtype": "bfloat16"}),
        ("language", "safeeraser.mini.language", {"--data": str(data), **told}),
    ):
        output = {"--output_file": str(tmp_path / f"{name}.json")}
        for steps, adapter in ((untouched, {}), (unlearned, {"--checkpoint_path": str(tmp_path)})):
            program, *words = steps[name].call(tmp_path)
            assert (program, words[:2], steps[name].leaf) == (sys.executable, ["-m", module], True)
            assert dict(word.split("=") for word in words[2:]) == where | output | adapter
    trained = {"tables.size=small", "model_family=llava-mini-small", f"data_path={data}/all_train.json"}
    assert trained <= {*unlearned["unlearn"].words}
    given = infer_arguments().parse_args(unlearned["infer_val"].options(tmp_path))
    assert (given.model_path, given.dtype, given.batch_size) == (f"{data}/base_model", "bfloat16", 64)
    assert {"--dtype=bfloat16", "--batch_size=64"} <= {*unlearned["audit"].words}


def test_a_page_of_ones_own_builds_on_a_shipped_one_and_measures_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {"defaults": ["mini", "_self_"], "steps": ["colours"], "checks": {"colours": "tool {run}", "shapes": "tool"}}
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(own))
    words = ["--model=mini", "--settings=page.yaml", "--methods=po"]
    (run,) = runs_of(options_of(arguments(None).parse_args(words)))
    last = run.steps[-1]
    assert (last.name, last.words, last.leaf) == ("colours", ("tool", "{run}", "--checkpoint_path={run}"), True)
    assert not {"specificity", "shapes"} & {step.name for step in run.steps}, "its `steps` does not name them"
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(own | {"checks": {"forget": "tool"}}))
    with pytest.raises(BadInput, match=r"^page\.yaml: checks: 'forget' is a step that there is already"):
        options_of(arguments(None).parse_args(words))
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(own | {"steps": ["colors"]}))
    with pytest.raises(BadInput, match=r"^page\.yaml: steps: no 'colors'; did you mean 'colours'"):
        options_of(arguments(None).parse_args(words))


def test_data_are_built_in_a_folder_with_a_blank_in_its_name(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    makes = "python -c 'import pathlib, sys; pathlib.Path(sys.argv[1]).mkdir()' {data}"
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(PAGE | {"build": makes}))
    assert main("--model=mini", "--settings=page.yaml", "--methods=vanilla", f"--data={tmp_path}/my data") == 2
    assert (tmp_path / "my data").is_dir() and "my data/all_train.json: no such file" in capfd.readouterr().err


def test_what_makes_the_data_is_given_the_users_words(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    makes = "python -c 'import pathlib, sys; pathlib.Path(sys.argv[2]).mkdir()'"
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(PAGE | {"build": f"{makes} {{data}}"}))
    words = ("--model=mini", "--settings=page.yaml", "--methods=vanilla", "--data=data", "--build_options='my words'")
    assert main(*words) == 2 and (tmp_path / "my words").is_dir(), capfd.readouterr().err


def test_jobs_that_leave_an_engine_too_few_gpus_are_told_before(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    words = ["--model=mini", f"--accelerate_config={ROOT}/config/accelerate/cpu_ddp.yaml"]
    found = {}
    for jobs in (1, 2):
        options = options_of(arguments(None).parse_args([*words, f"--jobs={jobs}"]))
        found[jobs] = jobs_at_fault(options, runs_of(options))
    assert found[1] == [] and "--jobs 2: a job would have 1 of the GPUs" in found[2][0]
