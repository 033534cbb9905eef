"""What takes lmms-eval's place in the tests: called as its Python is, it answers from the script beside it.

`known` is what a probe prints, `tasks` has of each its figures with `n`, or what else it does. Calls: `calls.jsonl`.
"""

import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# As the 0.7.3 harness logs it.
ENDED = "2026-01-01 | \x1b[31mERROR\x1b[0m | __main__ - Error during evaluation: {}. Please set `--verbosity=DEBUG` to"


def evaluate(task: str, does: dict | str, out: Path) -> None:
    """A result file of the shape that the 0.7.3 harness writes, or what the script has in its place."""
    if does == "hangs":
        (HERE / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    if isinstance(does, str):
        print("ConnectionError: Couldn't reach it\ntenacity.RetryError: RetryError[it]\n" + ENDED.format(does))
        return  # with exit code 0
    print("\n".join(does.get("log", [])))
    figures = {"alias": task, "exact_match_stderr_clustered,none": "N/A"}
    figures |= {f"{name},none": value for name, value in does["figures"].items()}
    counts = {"original": does["n"], "effective": does["n"]}
    for file, content in (
        ("submissions/mmbench_en_dev_results.json", {"overall_acc": 0.5}),  # as MMBench does
        ("x__merged/20260101_000000_results.json", {"results": {task: figures}, "n-samples": {task: counts}}),
    ):
        (out / file).parent.mkdir()
        (out / file).write_text(json.dumps(content))


script, words = json.loads((HERE / "script.json").read_text()), sys.argv[1:]
kept = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_URL")
with open(HERE / "calls.jsonl", "a") as handle:
    print(json.dumps({"argv": words, "environment": {name: os.environ.get(name) for name in kept}}), file=handle)
if words[0].endswith("probe.py"):
    known = script["known"]["tasks"]
    print("chatter\nknown: " + json.dumps(script["known"] | {"tasks": {n: known[n] for n in words[2:] if n in known}}))
else:
    task, out = (words[words.index(name) + 1] for name in ("--tasks", "--output_path"))
    evaluate(task, script["tasks"][task], Path(out))
