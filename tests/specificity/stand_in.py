"""A stand-in for a Python with lmms-eval. It answers from script.json in its folder, and logs calls to calls.jsonl.

Script: `known` has the facts that `know` prints, and `tasks` has the figures and `n` of each task, or how it fails.
`ask` runs the real worker, with stand-ins for the modules of lmms-eval 0.7.3.
"""

import json
import os
import runpy
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

HERE = Path(__file__).parent
SINKS = []


class Retried(Exception):
    last_attempt = SimpleNamespace(exception=lambda: ConnectionError("Couldn't reach it"))


def options():
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    return None, SimpleNamespace(tasks=given["--tasks"], output_path=given["--output_path"], verbosity="INFO")


def evaluate(given):
    does = script["tasks"][given.tasks]
    if does == "hangs":
        (HERE / "pid").write_text(str(os.getpid()))
        time.sleep(600)
    if does == "retried":  # like the error that tenacity raises
        raise Retried
    if isinstance(does, str):
        raise OSError(does)
    [sink(line) for sink in SINKS for line in does.get("log", [])]
    figures = {"alias": given.tasks, "exact_match_stderr_clustered,none": "N/A"}
    figures |= {f"{name},none": value for name, value in does["figures"].items()}
    return {"results": {given.tasks: figures}, "n-samples": {given.tasks: {"effective": does["n"]}}}, None


script, words = json.loads((HERE / "script.json").read_text()), sys.argv[1:]
kept = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_URL")
with open(HERE / "calls.jsonl", "a") as handle:
    print(json.dumps({"argv": words, "environment": {name: os.environ.get(name) for name in kept}}), file=handle)
at = next(n for n, word in enumerate(words) if word.endswith("worker.py"))
if words[at + 1] == "know":
    known = script["known"]["tasks"]
    print("chatter\nknown: " + json.dumps(script["known"] | {"tasks": {n: known[n] for n in words[3:] if n in known}}))
else:
    logger = SimpleNamespace(remove=SINKS.clear, add=lambda sink, **how: callable(sink) and SINKS.append(sink))
    for name, parts in {
        "accelerate": {"Accelerator": dict, "InitProcessGroupKwargs": dict},
        "lmms_eval": {},
        "lmms_eval.__main__": {"cli_evaluate_single": evaluate, "parse_eval_args": options},
        "loguru": {"logger": logger},
    }.items():
        vars(sys.modules.setdefault(name, ModuleType(name))).update(parts)
    sys.argv[:] = words[at:]
    runpy.run_path(words[at], run_name="__main__")
