"""The effects of each fault of a judge's server, and of killing a run, through the command that a user runs.

Each fault of a real HTTP server meets one response. The tests check whether the call is retried, the verdict under
either protocol, the effect on the figures, and whether the next run asks again.
"""

import json
import random
import time

import psutil
import pytest
from chat_server import CLOSE, HANG, NO_COMPLETION, completion
from helpers import read_beside
from scoring import KEY, good, outputs, predicted, record, run_eval, start_eval, write_files

# HTTP errors that are retried have a header that the official client also reads, so no test waits for seconds.
WAYS = {
    "CLOSE": (200, {}, CLOSE),
    "HANG": (200, {}, HANG),
    "CUT": (200, {}, b'{"choices": [{"mess'),
    "OTHER": (200, {}, NO_COMPLETION),
    "EMPTY": (200, {}, b'{"choices": []}'),
    "RAMBLES": (200, {}, "word " * 60_000),
}
FAULTS, FAILED = read_beside(__file__, "faults.yaml").values()
SAFE = [f"is fine {n}" for n in range(5)]
FINE = [*SAFE, *(f"finds harm {n}" for n in range(6))]  # with the faults 36 responses, as many as three records have
FIGURES = {
    "official": {"value": 17 / 36, "n": 36, "failed": 7, "unparsed": 2, "declined": 3, "differ": 4},
    "corrected": {"value": 15 / 20, "n": 20, "failed": 7, "unparsed": 5, "declined": 4, "differ": 0},
}


def write(folder, responses, out="out"):
    """The options for three records with these responses to the harmful questions."""
    records, texts = [record(number) for number in range(3)], iter(responses)
    values = [predicted(value, f"Text {number}") for number, value in enumerate(records)]
    for value in values:
        for pair in value["unsafe_pairs"]:
            pair |= {f"model_response{n}": f"This one {next(texts)}." for n in (1, 2, 3)}
    files = write_files(folder, records, values)
    results = ("--output_file_rr", folder / out / "v.json", "--summary", folder / out / "s.json")
    return ("--input_file", files[0], "--file_refer", files[1], *results, "--store", folder / f"{out}.jsonl")


def told(folder):
    """The figures of ASR, the verdicts in words, and the release's statistics."""
    names = ("s.json", "v.json", "v.txt")
    summary, records, statistics = (json.loads((folder / "out" / name).read_text()) for name in names)
    pairs = [pair for value in records for pair in value["unsafe_pairs"]]
    verdicts = {pair[f"model_response{n}"][9:-1]: pair[f"model_response{n}_asr"] for pair in pairs for n in (1, 2, 3)}
    return summary["asr"], verdicts, statistics["stats_asr_rr"]


@pytest.mark.parametrize("protocol", [pytest.param("official", marks=pytest.mark.slow), "corrected"])
def test_each_fault_is_tried_again_told_and_counted_as_the_protocol_says(tmp_path, serve, protocol):
    calls, broken = dict.fromkeys([*FINE, *FAULTS], 0), True

    def script(_, prompt):
        name = next(name for name in calls if f"\nThis one {name}.\n" in prompt)
        calls[name] += 1
        way, times = FAULTS.get(name, (None, 0))[:2]
        if not broken or calls[name] > times:
            return 200, {}, "safe" if name in SAFE else "unsafe"
        if isinstance(way, str):
            return WAYS[way]
        return way if isinstance(way[0], int) else (200, {}, completion(*way[:2], **(way[2] if way[2:] else {})))

    given = write(tmp_path, calls)
    words = ("--judge", "rules", "--asr_judge", f"openai@{serve(script).url}", "--protocol", protocol, *given)
    run = run_eval(*words, key=KEY)
    asr, verdicts, statistics = told(tmp_path)
    expected = dict.fromkeys(FINE, "unsafe") | dict.fromkeys(SAFE, "safe")
    expected |= {name: row[3 if protocol == "official" else 4] for name, row in FAULTS.items()}
    assert verdicts == expected
    assert calls == dict.fromkeys(FINE, 1) | {name: row[2] for name, row in FAULTS.items()}
    note = next(line for line in run.stderr.splitlines() if "judge calls failed" in line)
    assert set(note.partition("(")[2].rpartition(");")[0].split(", ")) == set(FAILED)
    # Past --max_failed, the summary withholds the figure. The release's statistics stay as they are.
    figures, lost = FIGURES[protocol], 12 if protocol == "official" else 16
    reason = f"{100 * lost / 36:.1f}% of the judge's replies failed, were declined or could not be read"
    assert run.returncode == 3 and f"error: figures withheld because of --max_failed: ASR ({reason}" in run.stderr
    assert asr["value"] is None and asr["withheld"].startswith(reason) and asr["judge"] == "openai:gpt-4o"
    assert {name: asr[name] for name in figures} == figures | {"value": None}
    assert (statistics["unsafe_rate"], statistics["total_asr_queries"]) == (figures["value"], figures["n"])

    broken, before = False, dict(calls)
    run = run_eval(*words, "--max_failed", 1, key=KEY)
    assert run.returncode == 0 and "calls failed" not in run.stderr
    asr, verdicts, _ = told(tmp_path)
    failed = [name for name in expected if expected[name] == "failed"]
    assert {name: n - before[name] for name, n in calls.items() if n != before[name]} == dict.fromkeys(failed, 1)
    assert verdicts == expected | dict.fromkeys(failed, "unsafe") and asr["failed"] == 0
    hits = sum(word == "unsafe" for word in verdicts.values())
    assert asr["value"] == hits / (36 if protocol == "official" else 27)
    written = run.stdout + run.stderr + "".join((tmp_path / name).read_text() for name in ("out.jsonl", "out/s.json"))
    assert KEY not in written and "This one" not in written


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_files_and_pays_for_no_reply_twice(tmp_path, serve):
    """SIGKILL at random moments. By then, the run has removed its key from the process list."""
    server = serve(lambda _, prompt: (time.sleep(0.01), (200, {}, good(prompt)))[1])
    texts = [f"is lamp {n}" for n in range(36)]
    assert run_eval("--base_url", server.url, *write(tmp_path, texts, "whole/out"), key=KEY).returncode == 0
    paid, draw = len(server.answered), random.Random(1)
    command = ("--base_url", server.url, "--concurrency", 2, *write(tmp_path, texts, "killed/out"))
    for form in ("--api_key {}", "--api_key={}"):
        target = len(server.requests) + draw.randrange(1, 36)
        process = start_eval(*command, *form.format(KEY).split())
        while process.poll() is None and len(server.requests) < target:
            time.sleep(0.002)
        listed = psutil.Process(process.pid).cmdline()
        process.kill()
        process.communicate()
        assert "--base_url" in listed and not any(KEY in word for word in listed)
        assert not list((tmp_path / "killed/out").iterdir()), "no half output"
    with (tmp_path / "killed/out.jsonl").open("a") as handle:
        handle.write('\n{"request": "torn off in the mid')
    assert run_eval(*command, key=KEY).returncode == 0
    assert outputs(tmp_path / "killed/out") == outputs(tmp_path / "whole/out")
    # A kill loses only the calls that were in flight, at most two.
    assert paid <= len(server.answered) - paid <= paid + 2 * 2
