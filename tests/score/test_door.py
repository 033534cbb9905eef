"""Scoring from Python: the keywords are the script's options, and so is what comes of them."""

import json

import pytest
from scoring import predicted, record, run_eval, write_files

from safeeraser import score
from safeeraser.errors import BadInput


@pytest.fixture
def given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    records = [record(number) for number in range(3)]
    predictions, reference = write_files(tmp_path, records, [predicted(value) for value in records])
    return {"input_file": predictions, "file_refer": reference, "judge": "rules", "split": "val"}


def test_score_is_the_script(given, tmp_path):
    scored = score(**given, protocol="corrected", refusals=True, summary=tmp_path / "door.json")
    words = [word for key, value in given.items() for word in (f"--{key}", value)]
    done = run_eval(*words, "--protocol", "corrected", "--refusals", "--summary", tmp_path / "script.json")
    assert done.returncode == 0, done.stderr
    theirs, ours = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("script", "door"))
    dates = [told["provenance"].pop("date") for told in (ours, theirs)]
    assert scored.summary["provenance"].pop("date") == dates[0] <= dates[1]
    assert scored.summary == ours == theirs
    assert scored.withheld == {} and scored.summary["refusals"]


def test_dicts_lists_and_nothing_are_values(given, tmp_path, serve):
    server = serve(lambda *_: (200, {}, "safe"))
    more = {"judge": "openai:any", "base_url": server.url, "extra_body": {"top_k": 3}, "price": [1, 2], "compare": None}
    assert score(**given | more, summary=tmp_path / "s.json", batch=False, api_key="k").summary["judge_model"] == "any"
    assert server.requests and all(body["top_k"] == 3 for *_, body in server.requests)
    assert score(**given, dry_run=True) is None


def test_figures_past_a_bound_are_told(given, tmp_path, serve):
    server = serve(lambda *_: (200, {}, "hm"))
    scored = score(
        **given | {"judge": "openai:any", "base_url": server.url, "api_key": "k"}, summary=tmp_path / "s.json"
    )
    assert scored.summary["sarr"]["withheld"] and any("SARR" in one for one in scored.withheld["--max_failed"])


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"inputfile": "x"}, "unknown option '--inputfile'; did you mean '--input_file'?"),
        ({"sumary": None}, "unknown option '--sumary'; did you mean '--summary'?"),
        ({"max_failed": 2}, "--max_failed"),
        ({"judge": "ruls"}, "unknown judge 'ruls'"),
    ],
)
def test_options_that_cannot_be_used(given, tmp_path, more, says):
    with pytest.raises(BadInput) as error:
        score(**given | {"summary": tmp_path / "s.json"} | more)
    assert says in str(error.value)
