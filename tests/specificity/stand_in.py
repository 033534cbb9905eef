"""What takes lmms-eval's place in the tests: called as its Python is, it answers from the script beside it.

`script.json`: `known`, what a probe prints, and `tasks`: of each its figures with `n`, or what else it does instead.
Each call is noted in `calls.jsonl`.
"""

import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# As the 0.7.3 harness logs it.
ENDED = "2026-01-01 | \x1b[31mERROR\x1b[0m | __main__ - Error during evaluation: {}. Please set `--verbosity=DEBUG` to"


def probe(script: dict) -> None:
    """What the harness knows of the tasks that are asked about."""
    names = sys.argv[3:]
    known = {**script["known"], "tasks": {name: of for name, of in script["known"]["tasks"].items() if name in names}}
    print("chatter\nknown: " + json.dumps(known))


def evaluate(script: dict) -> None:
    """A result file of the shape that the 0.7.3 harness writes, or what the script has in its place."""

    def option(name: str) -> str:
        return sys.argv[sys.argv.index(name) + 1]

    task, out = option("--tasks"), Path(option("--output_path"))
    does = script["tasks"][task]
    if does == "hangs":
        (HERE / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    if isinstance(does, str):
        print("ConnectionError: Couldn't reach it\ntenacity.RetryError: RetryError[it]\n" + ENDED.format(does))
        return  # with exit code 0
    print("\n".join(does.get("log", [])))
    figures = {f"{name},none": value for name, value in does["figures"].items()}
    result = {
        "results": {task: {"alias": task, **figures, "exact_match_stderr_clustered,none": "N/A"}},
        "n-samples": {task: {"original": does["n"], "effective": does["n"]}},
    }
    (out / "submissions").mkdir()
    (out / "submissions" / "mmbench_en_dev_results.json").write_text('{"overall_acc": 0.5}')  # as MMBench does
    (out / "x__merged").mkdir()
    (out / "x__merged" / "20260101_000000_results.json").write_text(json.dumps(result))


def main() -> None:
    """Note the call and do what it asks."""
    script = json.loads((HERE / "script.json").read_text())
    kept = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_URL")
    call = {"argv": sys.argv[1:], "environment": {name: os.environ.get(name) for name in kept}}
    with open(HERE / "calls.jsonl", "a") as handle:
        handle.write(json.dumps(call) + "\n")
    (probe if sys.argv[1].endswith("probe.py") else evaluate)(script)


if __name__ == "__main__":
    main()
