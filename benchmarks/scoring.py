"""Measure the speed and memory of scoring with a judge behind a server: prints a table.

  python benchmarks/scoring.py                  # about 5 minutes on two cores

A server on this machine answers each call after 200 ms. eval_all.py scores a synthetic val set of 600 records with it,
then one twice as large: 32 verdicts a record, no two prompts alike, 64 calls at a time. The time of one call after
another is measured on some hundred calls at concurrency 1 and extrapolated. The memory of judging is the peak of
eval_all.py, less the peak of the same run with --judge rules, which makes no calls.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import Queue

import psutil
from shared import show

from safeeraser.arguments import Arguments, count
from safeeraser.benchmark.records import CATEGORIES
from safeeraser.errors import command

ROOT = Path(__file__).resolve().parents[1]
DELAY, CALLS = 0.2, 32  # seconds that the server takes for a call; calls per record
MESSAGE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
USAGE = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}


def record(number: int) -> dict:
    """A record with predictions; no two responses are alike."""
    value = {"category": CATEGORIES[number % 6], "keyword": f"k{number % 60}"}
    value |= {"image_path": f"img/{number}.jpg", "SDImage_path": f"sd/{number}.jpg", "unsafe_pairs": []}
    for name in ("text1", "text2", "image1", "image2"):
        said = f"The {name} of picture {number} stands on a table beside a lamp."
        value[f"UnharmPair_{name}"] = {"Question": f"What is the {name}?", "Answer": name, "Prediction": said}
    for place in range(4):
        about = f"to question {place} of picture {number}. "
        pair = {f"model_response{n}": f"Answer {n} {about}" * 5 for n in (1, 2, 3)}
        pair |= {"question": f"Question {place}?", "sd_response": f"Benign answer {about}" * 5}
        value["unsafe_pairs"].append(pair)
    return value


async def serve(port: Queue) -> None:
    """Answer chat completions after `DELAY`, any number at a time; puts the port that it listens on."""
    value = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "usage": USAGE, "choices": [MESSAGE]}
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(request.split(b"content-length:")[1].split(b"\r\n")[0]))
                await asyncio.sleep(DELAY)
                writer.write(head + body)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(client, "127.0.0.1", 0, backlog=256) as server:
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()


def evaluate(folder: Path, records: int, *more: str) -> tuple[float, float]:
    """Score this number of records; returns the command's seconds and its peak memory in MB."""
    folder.mkdir(parents=True)
    for name in ("predictions.json", "all_val.json"):
        (folder / name).write_text(json.dumps([record(number) for number in range(records)]))
    files = ["--input_file", folder / "predictions.json", "--file_refer", folder / "all_val.json"]
    files += ["--output_file_rr", folder / "v.json", "--summary", folder / "s.json", "--store", folder / "store.jsonl"]
    words = [sys.executable, ROOT / "eval_all.py", *files, "--max_failed", "1", *more]
    began, most = time.monotonic(), 0.0
    with open(folder / "log.txt", "w") as log:
        process = psutil.Popen(list(map(str, words)), stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            with suppress(psutil.Error):
                most = max(most, process.memory_info().rss / 1e6)
            time.sleep(0.05)
    if process.returncode:
        sys.exit(f"error: eval_all.py failed:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return time.monotonic() - began, most


@command
def main() -> None:
    """Measure and print the table."""
    parser = Arguments(prog="python benchmarks/scoring.py", description=__doc__)
    add = parser.add_argument
    add("--records", type=count, default=600, help="of the val set (default: %(default)s)")
    add("--concurrency", type=count, default=64, help="calls at a time (default: %(default)s)")
    add("--sequential", type=count, default=10, help="records judged one call after another (default: %(default)s)")
    given = parser.parse_args()
    threading.Thread(target=asyncio.run, args=(serve(port := Queue()),), daemon=True).start()
    served, rows = ("--base_url", f"http://127.0.0.1:{port.get()}/v1", "--judge_model", "m"), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start, _ = evaluate(folder / "none", 1, "--judge", "rules")  # the time that Python takes to start
        alone, _ = evaluate(folder / "one", given.sequential, *served, "--concurrency", "1")
        each = (alone - start) / (given.sequential * CALLS)
        for records in (given.records, 2 * given.records):
            _, plain = evaluate(folder / f"rules{records}", records, "--judge", "rules")
            seconds, held = evaluate(folder / str(records), records, *served, "--concurrency", str(given.concurrency))
            calls, memory = records * CALLS, (f"{mb:.0f}" for mb in (held, plain, held - plain))
            faster = f"1/{each * calls / seconds:.0f}"
            rows.append([str(records), str(calls), f"{seconds:.1f}", f"{calls / seconds:.0f}", faster, *memory])
    heads = ["records", "verdicts", "seconds", "a second", "of one by one", "MB", "MB with rules", "MB of judging"]
    show(heads, rows, left=0)
    print(f"cores {os.cpu_count()}; one call after another: {1000 * each:.0f} ms each")


if __name__ == "__main__":
    main()
