"""Speed and memory of scoring by a judge behind a server: prints a table.

  python benchmarks/scoring.py                  # about 4 minutes on two cores

A server on this machine answers each call after 200 ms. eval_all.py scores a synthetic val set of 600 records against
it (12 responses for ASR and for RR, 4 for SARR, 4 for GPT-Eval a record: 19,200 verdicts, no two prompts alike), 64
calls at a time. One call after another is measured on some hundred calls, by the same client at concurrency 1, and
extrapolated.

Memory is the most that eval_all.py held, less what the same run held with --judge rules, which holds the same data and
makes no calls: what judging itself takes, for several numbers of records.
"""

import asyncio
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from safeeraser.arguments import Arguments, count
from safeeraser.errors import command

ROOT = Path(__file__).resolve().parents[1]
DELAY = 0.2  # seconds that the server takes
CALLS = 32  # a record's
AIM = 1 / 40


def record(number: int) -> dict:
    """A record with its predictions; every text is its own."""

    def unharm(name: str) -> dict:
        text = f"The {name} of picture {number} stands on a table beside a lamp."
        return {"Question": f"What is the {name}?", "Answer": name, "Prediction": text}

    pairs = []
    for place in range(4):
        texts = {f"model_response{n}": f"Answer {n} to question {place} of picture {number}. " * 5 for n in (1, 2, 3)}
        benign = f"Benign answer to question {place} of picture {number}. " * 5
        pairs.append({"question": f"Question {place}?", "sd_response": benign, **texts})
    return {
        "category": ("HateSpeech", "IllegalActivity", "Privacy", "Sex", "Violence", "Weapon")[number % 6],
        "keyword": f"k{number % 60}",
        "image_path": f"img/{number}.jpg",
        "SDImage_path": f"sd/{number}.jpg",
        **{f"UnharmPair_{name}": unharm(name) for name in ("text1", "text2", "image1", "image2")},
        "unsafe_pairs": pairs,
    }


def serve(port: int) -> None:
    """Answer chat completions after `DELAY`, any number at a time."""
    message = {"role": "assistant", "content": "yes"}
    usage = {"prompt_tokens": 200, "completion_tokens": 1, "total_tokens": 201}
    value = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "usage": usage}
    body = json.dumps(value | {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(request.split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await asyncio.sleep(DELAY)
                writer.write(head + body)
                await writer.drain()
        writer.close()

    async def forever() -> None:
        async with await asyncio.start_server(client, "127.0.0.1", port, backlog=256) as server:
            await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def server():
    """A server in a process of its own; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    process.start()
    for _ in range(100):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            break
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()


def evaluate(folder: Path, records: int, *more: str) -> tuple[float, float]:
    """Score so many records; returns the seconds and the most MB that the command held."""
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
    """Measure, print."""
    parser = Arguments(prog="python benchmarks/scoring.py", description=__doc__)
    add = parser.add_argument
    add("--records", type=count, default=600, help="of the val set (default: %(default)s)")
    add("--concurrency", type=count, default=64, help="calls at a time (default: %(default)s)")
    add("--sequential", type=count, default=10, help="records judged one call after another (default: %(default)s)")
    given = parser.parse_args()
    table = Table("records", "verdicts", "seconds", "a second", "MB", "MB with rules", "MB of judging")
    sizes = sorted({given.records // 4, given.records, 2 * given.records})
    with tempfile.TemporaryDirectory() as name, server() as url:
        folder, served = Path(name), ("--base_url", url, "--judge_model", "m")
        start, _ = evaluate(folder / "none", 1, "--judge", "rules")  # what Python takes to start, not to be judged by
        one, _ = evaluate(folder / "one", given.sequential, *served, "--concurrency", "1")
        each = (one - start) / (given.sequential * CALLS)
        for records in sizes:
            _, plain = evaluate(folder / f"rules{records}", records, "--judge", "rules")
            seconds, held = evaluate(folder / str(records), records, *served, "--concurrency", str(given.concurrency))
            figures = (f"{seconds:.1f}", f"{records * CALLS / seconds:.0f}", f"{held:.0f}", f"{plain:.0f}")
            table.add_row(str(records), str(records * CALLS), *figures, f"{held - plain:.0f}")
            if records == given.records:
                ratio = seconds / (each * records * CALLS)
    Console().print(table)
    whole = each * given.records * CALLS
    print(f"cores {os.cpu_count()}; one call after another: {1000 * each:.0f} ms each, {whole:.0f} s for all of them")
    print(
        f"{given.records} records at concurrency {given.concurrency}: 1/{1 / ratio:.0f} of that "
        f"(aim: under 1/{1 / AIM:.0f})"
    )


if __name__ == "__main__":
    main()
