"""What the tests of judges share: queries, a judge behind a server, and asking in this process."""

import json

from safeeraser.judge.judge import Query
from safeeraser.judge.judging import Choice, Judging, make_judging
from safeeraser.judge.panel import Panel
from safeeraser.score.options import arguments

FIELDS = {"asr": "model_response1", "rr": "model_response1", "sarr": "sd_response", "gpt": "Prediction"}
TRUTH = ["unsafe", "normal", "normal", 0.5]  # what `scoring.good` says to a record's `queries`


def query(metric="asr", response="A lamp is lit.", number=0, **more):
    """A question about the response of a record of its own."""
    where = {"place": "UnharmPair_text1" if metric == "gpt" else 0, "field": FIELDS[metric], "number": number}
    texts = {"question": "What is it?", "response": response, "reference": "A lamp." if metric == "gpt" else ""}
    return Query(metric, number, **{"category": "Weapon"} | where | texts | more)


def queries(count=1):
    """Of so many records one query a metric, each about a text of its own."""
    return [query(metric, f"{metric} {n} is lit.", n) for n in range(count) for metric in FIELDS]


def judging(folder, server=None, name="openai", model=None, **more):
    """Who judges: a model behind `server`, or one of the others."""
    return Judging(judge=Choice(name, model, server and server.url), **{"store": folder / "store.jsonl"} | more)


def parsed(*words):
    """What eval_all.py's words say of judges."""
    return make_judging(vars(arguments().parse_args([*map(str, words)])))


def ask(given, asked):
    """The judges of a run, and what they say."""
    panel = Panel(given)
    return panel, panel.ask(asked)


def words(verdicts):
    """The verdicts in words, in their order."""
    return [verdict.word(query.metric) for query, verdict in verdicts.items()]


def kept(folder):
    """The replies in the store."""
    path = folder / "store.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line][1:] if path.exists() else []
