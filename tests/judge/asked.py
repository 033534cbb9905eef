"""Helpers of the judges' tests: queries, a judge behind a server, and asking in this process."""

import json

from safeeraser.judge.judge import Query
from safeeraser.judge.judging import Choice, Judging, make_judging
from safeeraser.judge.panel import Panel
from safeeraser.score.options import arguments

FIELDS = {"asr": "model_response1", "rr": "model_response1", "sarr": "sd_response", "gpt": "Prediction"}
TRUTH = ["unsafe", "normal", "normal", 0.5]  # the verdicts by `scoring.good` on a record's `queries`


def query(metric="asr", response="A lamp is lit.", number=0, **more):
    """A query about a response; its number is the number of its record."""
    where = {"place": "UnharmPair_text1" if metric == "gpt" else 0, "field": FIELDS[metric], "number": number}
    texts = {"question": "What is it?", "response": response, "reference": "A lamp." if metric == "gpt" else ""}
    return Query(metric, number, **{"category": "Weapon"} | where | texts | more)


def queries(count=1):
    """One query per metric for each of `count` records, each about another text."""
    return [query(metric, f"{metric} {n} is lit.", n) for n in range(count) for metric in FIELDS]


def judging(folder, server=None, name="openai", model=None, **more):
    """A judging by a model behind `server` or, without one, by another judge."""
    return Judging(judge=Choice(name, model, server and server.url), **{"store": folder / "store.jsonl"} | more)


def parsed(*words):
    """The judging that these command-line words of eval_all.py describe."""
    return make_judging(vars(arguments().parse_args([*map(str, words)])))


def ask(given, asked):
    """The panel of a run's judges, and their verdicts."""
    panel = Panel(given)
    return panel, panel.ask(asked)


def words(verdicts):
    """The verdicts in words, in their order."""
    return [verdict.word(query.metric) for query, verdict in verdicts.items()]


def kept(folder):
    """The replies in the store."""
    path = folder / "store.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line][1:] if path.exists() else []
