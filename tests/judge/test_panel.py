"""Who judges what: how judges are named and combined, which responses each is asked about, and what it will cost."""

from datetime import date
from pathlib import Path

import pytest
from scoring import KEY

from safeeraser.judge.costs import Price, Spent, listed_price, parse_price, show_plan
from safeeraser.judge.judges import Choice, Judging
from safeeraser.judge.panel import Panel, leaving

from .asked import ask, judging, parsed, query

SAID = {"asr": "safe", "rr": "normal", "sarr": "refuse"}  # of a blank response


def test_the_words_of_a_command_line_become_a_judging(tmp_path):
    (tmp_path / "key").write_text(f"{KEY}\n")
    words = "--judge qwen3guard --judge_model m --base_url http://a:b@h/v1 --sarr_judge rules --protocol corrected"
    words += ' --concurrency 3 --requests_per_minute 7 --judge_max_tokens 9 --extra_body {"seed":1} --store s'
    given = parsed(*words.split(), "--batch", "--dry_run", "--price", "1,2", "--api_key_file", tmp_path / "key")
    judges = {"asr": None, "rr": None, "sarr": Choice("rules"), "gpt": None}
    calls = {"api_key": KEY, "concurrency": 3, "requests_per_minute": 7, "max_tokens": 9, "extra_body": {"seed": 1}}
    calls |= {"store": Path("s"), "price": Price(1, 2), "batch": True, "dry_run": True, "protocol": "corrected"}
    assert given == Judging(judge=Choice("qwen3guard", "m", "http://a:b@h/v1"), judges=judges, **calls)
    told = given.told
    assert told["judge"] == {"name": "qwen3guard", "model": "m", "base_url": "http://h/v1"}
    assert told["judges"] == {"sarr": {"name": "rules", "model": None, "base_url": None}}
    assert (told["protocol"], told["max_tokens"], told["extra_body"]) == ("corrected", 9, {"seed": 1})
    assert list(told["guards"]) == ["qwen3guard"] and "truth" not in told
    plain = parsed("--judge", "openai:qwen3:8b@http://i/v1")
    assert plain.judge == Choice("openai", "qwen3:8b", "http://i/v1") and plain.api_key is None
    assert (plain.official, plain.price_share, given.price_share, plain.versions["guards"]) == (True, 1.0, 0.5, {})


@pytest.mark.parametrize(
    "judge, protocol, said, asked",
    [
        # A served judge is never asked about blank or missing responses; the rules know what they are.
        ("openai", "official", {}, 0),
        ("openai", "corrected", SAID | {"gpt": 0.0}, 0),
        ("rules", "official", SAID, 3),
        ("rules", "corrected", SAID, 0),
    ],
)
def test_a_blank_response_is_what_it_is_under_corrected_alone(tmp_path, serve, judge, protocol, said, asked):
    server = serve(lambda *_: (200, {}, "yes"))
    blank, none = ([query(metric, text) for metric in (*SAID, "gpt")] for text in (" \n", None))
    given = judging(tmp_path, judge == "openai" and server, judge, protocol=protocol)
    _, verdicts = ask(given, [*none, query("gpt", "A lamp.", 2, reference=" "), *blank])
    assert {q.metric: verdict.word(q.metric) for q, verdict in verdicts.items()} == said
    assert set(verdicts) <= set(blank) and sum(verdict.asked for verdict in verdicts.values()) == asked
    assert not server.requests


def test_a_dry_run_counts_only_what_the_store_lacks_and_asks_nobody(tmp_path, serve, capsys):
    server = serve(lambda *_: (200, {}, "yes"))
    panel = Panel(judging(tmp_path, server, model="m", judges={"gpt": Choice("openai", "gpt-4o", server.url)}))

    def plan(asked):
        show_plan(panel.foresee(asked), panel.prices, share=0.5)
        lines = [line.split("│")[1:-1] for line in capsys.readouterr().out.splitlines() if "│" in line]
        return [[cell.strip() for cell in line] for line in lines]

    asked = [query("asr", f"asr {n} is lit.", n) for n in range(3)] + [query("gpt", f"{n:03}", n) for n in range(1000)]
    foreseen = list(panel.foresee(asked))
    assert {(metric, spent.calls, spent.completion_tokens) for metric, _, spent in foreseen} == {
        ("asr", 1, 2),
        ("gpt", 1, 2),
    }
    asr, gpt = (sum(spent.prompt_tokens for kind, _, spent in foreseen if kind == metric) for metric in ("asr", "gpt"))
    dollars = f"{(gpt * 2.5 + 2000 * 10) / 2e6:.2f}"
    assert plan(asked) == [
        ["asr", "openai:m", "3", f"{asr + 6:,}", "unknown"],
        ["gpt", "openai:gpt-4o", "1000", f"{gpt + 2000:,}", dollars],
        ["all", "", "1003", f"{asr + gpt + 2006:,}", f"{dollars} + unknown"],
    ]
    assert not server.requests and not (tmp_path / "store.jsonl").exists() and gpt > 100_000
    panel.ask(asked[:2])
    assert plan(asked[:3])[0][2] == "1" and plan(asked[:2]) == [["all", "", "0", "0", "0.00"]]


def test_prices_and_notices_by_hand():
    assert parse_price("2.5,10") == Price(2.5, 10) == listed_price("gpt-4o") and listed_price("some") is None
    spent = Spent(1, 2_000_000, 100_000) + Spent(2, 0, 100_000)
    assert spent == Spent(3, 2_000_000, 200_000)
    assert Price(2.5, 10).of(spent) == 7.0 and Price(2.5, 10).of(spent, share=0.5) == 3.5
    assert leaving("gpt-4o", date(2026, 10, 15)) is None is leaving("gpt-4o-mini", date(2027, 1, 14))
    assert "leaves OpenAI's API on 2027-01-14, in 90 days" in leaving("gpt-4o", date(2026, 10, 16))
    assert "in 1 days" in leaving("gpt-4o-2024-08-06", date(2027, 1, 13))
    assert "was to leave OpenAI's API on 2027-01-14" in leaving("gpt-4o", date(2027, 1, 14))
