"""The choice of judges: how they are named and combined, and the foreseen cost.

A user's mistakes (`refusals.yaml`) are named in an error before any judge is asked.
"""

import os
import shlex
from datetime import date
from pathlib import Path

import pytest
from helpers import read_beside, refusal
from scoring import KEY

from safeeraser.errors import BadInput
from safeeraser.judge import dialects
from safeeraser.judge.judge import Spent
from safeeraser.judge.judging import Choice, Judging, Price, parse_price
from safeeraser.judge.panel import PRICES, Panel, show_plan
from safeeraser.judge.served import leaving

from .asked import ask, judging, parsed, query


def test_the_words_of_a_command_line_become_a_judging(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    words = "--judge qwen3guard --judge_model m --base_url http://a:b@h/v1 --sarr_judge rules --protocol corrected"
    words += ' --concurrency 3 --requests_per_minute 7 --judge_max_tokens 9 --extra_body {"seed":1} --store s'
    given = parsed(*words.split(), "--batch", "--dry_run", "--price", "1,2", "--api_key_file", tmp_path / "key")
    judges = {"asr": None, "rr": None, "sarr": Choice("rules"), "gpt": None}
    calls = {"api_key": KEY, "concurrency": 3, "requests_per_minute": 7, "max_tokens": 9, "extra_body": {"seed": 1}}
    calls |= {"store": Path("s"), "price": Price(1, 2), "batch": True, "dry_run": True, "protocol": "corrected"}
    assert given == Judging(judge=Choice("qwen3guard", "m", "http://a:b@h/v1"), judges=judges, **calls)
    told = given.record
    assert told["judge"] == {"name": "qwen3guard", "model": "m", "base_url": "http://h/v1"}
    assert told["judges"] == {"sarr": {"name": "rules", "model": None, "base_url": None}}
    assert (told["protocol"], told["max_tokens"], told["extra_body"]) == ("corrected", 9, {"seed": 1})
    assert list(told["guards"]) == ["qwen3guard"] and "truth" not in told
    plain = parsed("--judge", "openai:qwen3:8b@http://i/v1")
    assert plain.judge == Choice("openai", "qwen3:8b", "http://i/v1") and plain.api_key is None
    assert (plain.official, plain.price_share, given.price_share, plain.versions["guards"]) == (True, 1.0, 0.5, {})


def test_a_dry_run_counts_only_what_the_store_lacks_and_asks_nobody(tmp_path, serve, capsys):
    server = serve(lambda *_: (200, {}, "yes"))
    panel = Panel(judging(tmp_path, server, model="m", judges={"gpt": Choice("openai", "gpt-4o", server.url)}))
    asked = [query("asr", f"asr {n} is lit.", n) for n in range(3)] + [query("gpt", f"{n:03}", n) for n in range(200)]
    panel.ask(asked[:1])
    foreseen = list(panel.foresee(asked))
    asr, gpt = (sum(spent.prompt_tokens for kind, _, spent in foreseen if kind == metric) for metric in ("asr", "gpt"))
    show_plan(foreseen, panel.prices, share=0.5)
    lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
    dollars = f"{(gpt * 2.5 + 400 * 10) / 2e6:.2f}"
    assert [[cell.strip() for cell in line] for line in lines] == [
        ["asr", "openai:m", "2", f"{asr + 4:,}", "unknown"],
        ["gpt", "openai:gpt-4o", "200", f"{gpt + 400:,}", dollars],
        ["all", "", "202", f"{asr + gpt + 404:,}", f"{dollars} + unknown"],
    ]
    assert len(server.requests) == 1 and gpt > 20_000


def test_prices_and_notices_by_hand():
    assert parse_price("2.5,10") == Price(2.5, 10) == PRICES["gpt-4o"] and "some" not in PRICES
    assert Price(2.5, 10).of(Spent(1, 2_000_000, 100_000) + Spent(2, 0, 100_000)) == 7.0
    assert leaving("gpt-4o", date(2026, 10, 15)) is None is leaving("gpt-4o-mini", date(2027, 1, 14))
    assert "leaves OpenAI's API on 2027-01-14, in 90 days" in leaving("gpt-4o", date(2026, 10, 16))


def test_where_a_key_is_missing_the_judge_that_needs_none_is_named(tmp_path):
    (tmp_path / "truth.json").touch()
    for folder, name in ((tmp_path, "truth"), (tmp_path / "other", "rules")):
        with pytest.raises(BadInput, match=f"needs a key: .*; --judge {name} needs none"):
            Panel(judging(tmp_path, data=folder / "all_val.json"))


REFUSALS = read_beside(__file__, "refusals.yaml")
FILES = [(kind, *of) for kind in ("guard", "truth", "replies") for of in REFUSALS[kind]]
JUDGES = {"guard": "llamaguard@http://127.0.0.1:9/v1", "truth": "truth", "replies": "replay"}
NAMES = {"guard": "llamaguard.yaml", "truth": "truth.json", "replies": "replies.json"}


@pytest.mark.parametrize("words, says", REFUSALS["command"].items())
def test_words_that_cannot_be_meant(tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "empty").write_text("\n")
    os.mkfifo(tmp_path / "pipe")
    said = refusal(lambda: Panel(parsed(*shlex.split(words.replace("KEY", KEY)))))
    assert says in said and KEY not in said


@pytest.mark.parametrize("kind, content, says", FILES)
def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path, monkeypatch, kind, content, says):
    if kind == "guard":
        monkeypatch.setattr(dialects, "CONFIG", tmp_path)
        says = f"llamaguard.yaml: {says}"
    if content is not None:
        (tmp_path / NAMES[kind]).write_text(content)
    named = {"asr": Choice.parse(JUDGES[kind])}
    files = {"data": tmp_path / "all_val.json", "replies": tmp_path / "replies.json", "store": tmp_path / "store.jsonl"}
    given = Judging(judge=Choice("rules"), judges=named, **files)
    assert says in refusal(ask, given, [query(picture="p.jpg")])
