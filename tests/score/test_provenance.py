"""What a summary tells of what made its figures."""

import json

from chat_server import completion
from scoring import KEY, predicted, record, run_eval, write_files

from safeeraser import __version__
from safeeraser.benchmark.files import described_by, sha256

TOLD = {
    "settings": {"model_path": "a/model", "checkpoint": "0123abcd", "seed": 7},
    "training": {"method": "popd", "recipe": {"name": "official"}},
    "versions": {"safeeraser": "0.0.1", "torch": "2.13.0"},
}


def provenance(folder, serve):
    server = serve(lambda *_: (200, {}, completion("safe", model="some-2026-01-01")))
    files = ("--input_file", folder / "predictions.json", "--file_refer", folder / "all_val.json")
    judges = ("--judge", "rules", "--asr_judge", f"openai:some@{server.url}", "--store", folder / "store.jsonl")
    run = run_eval(*files, *judges, "--summary", folder / "s.json", key=KEY)
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "s.json").read_text())["provenance"]


def test_model_adapter_data_judges_and_versions_stand_in_one_place(tmp_path, serve):
    predictions, reference = write_files(tmp_path, [record(0)], [predicted(record(0))])
    described_by(predictions).write_text(json.dumps(TOLD))
    told = provenance(tmp_path, serve)
    assert (told["model"], told["adapter_sha256"], told["data_sha256"]) == ("a/model", "0123abcd", sha256(reference))
    assert (told["method"], told["recipe"], told["sampling_seed"]) == ("popd", "official", 7)
    assert told["judges"]["asr"] == {"judge": "openai:some", "snapshots": ["some-2026-01-01"]}
    assert told["judges"]["sarr"] == {"judge": "rules", "snapshots": []} and "gpt_eval" not in told["judges"]
    assert told["judge_versions"].keys() == {"prompts", "rules", "guards"}
    assert told["versions"]["torch"] == "2.13.0" and told["versions"]["safeeraser"] == __version__
    assert "python" in told["versions"] and told["date"][:2] == "20"


def test_predictions_that_came_without_a_record_leave_it_open(tmp_path, serve):
    write_files(tmp_path, [record(0)], [predicted(record(0))])
    told = provenance(tmp_path, serve)
    assert told["model"] is told["adapter_sha256"] is told["method"] is told["recipe"] is told["sampling_seed"] is None
