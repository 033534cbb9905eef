"""Compare a run with another run: the difference of each metric on the same requests. Compare its judge with labels or
with another judge: how far they agree on the same responses."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Column

from safeeraser.benchmark.files import read_json, read_text, sha256
from safeeraser.benchmark.judged import difference, value_of, values_of
from safeeraser.benchmark.metrics import ASKED, METRICS, SCORED, Figure
from safeeraser.benchmark.records import read_raw, read_records
from safeeraser.benchmark.summaries import STATES, Summary, SummaryFile
from safeeraser.errors import BadInput, note
from safeeraser.judge.judge import Query, Verdict
from safeeraser.score.agreement import Labelled, agreement, format_share, table
from safeeraser.score.asking import Inputs, pair_records
from safeeraser.score.labels import LABELLED, Label, read_labels, render_page
from safeeraser.score.metrics import cluster_of, print_table
from safeeraser.score.options import Options


class Opinion(NamedTuple):
    """Labels of some responses, or the verdicts of another run's judge on them.

    Attributes:
        name, source: whose opinion it is, in words, and its file; `record` is its entry in the summary.
        values: query -> 1 where the response counts, 0 where it does not, None where the opinion gives no answer.
        weights: query -> how many responses the labelled one represents; a query that is not there has weight 1.
    """

    name: str
    source: str
    record: dict[str, Any]
    values: dict[Query, float | None]
    weights: dict[Query, float]


def open_run(path: Path, option: str, options: Options) -> tuple[Summary | None, Path | None]:
    """A run's summary (None if `path` holds verdicts alone) and its verdicts file; both None where `path` is a table.

    Raises:
        BadInput: the files cannot be used, or this run would overwrite them.
    """
    first, where = read_text(path).lstrip()[:1], f"{option} {path}"
    if first not in ("{", "["):
        return None, None
    summary, verdicts = None, path
    if first == "{":
        try:
            summary = SummaryFile.model_validate(read_json(path))
        except ValueError:
            raise BadInput(f"{where}: is not what eval_all.py writes") from None
        if not summary.verdicts:
            raise BadInput(
                f"{where}: its summary names no verdicts file; eval_all.py names one if it is given both "
                "--output_file_rr and --summary"
            )
        verdicts = path.parent / summary.verdicts
        if not verdicts.is_file():
            raise BadInput(f"{where}: the verdicts that it names, {verdicts}, are not there")
    ours = {file.resolve() for file in (options.output_file_rr, options.summary) if file}
    if ours & {path.resolve(), verdicts.resolve()}:
        raise BadInput(f"{where}: this run would overwrite its files; name other output files")
    return summary, verdicts


def read_other(path: Path, options: Options) -> tuple[Path, Summary, dict[tuple, float]]:
    """The run to compare with, read before any judging or writing: `path`, its summary and its values by request.

    Raises:
        BadInput: the run cannot be used, has another protocol, or has files that this run would overwrite.
    """
    summary, verdicts = open_run(path, "--compare", options)
    if not summary or not verdicts:
        raise BadInput(f"--compare {path}: no summary, such as eval_all.py writes by --summary")
    if summary.protocol != options.judging.protocol:
        raise BadInput(f"--compare {path}: of protocol {summary.protocol}, this run of {options.judging.protocol}")
    try:
        values = values_of(read_raw(verdicts), official=options.judging.official)
        sum(values.values())
        return path, summary, values
    except (AttributeError, TypeError, KeyError):
        raise BadInput(f"--compare {path}: it, or {verdicts}, is not what eval_all.py writes") from None


def compare(
    records: list[dict[str, Any]], summary: dict[str, Any], path: Path, theirs: Summary, others: dict[tuple, float]
) -> dict[str, Any]:
    """The differences, metric by metric, between a run (its verdicts and its summary) and the run at `path`.

    `difference` is this run's mean minus the other's, over the same questions about the same pictures. It is None where
    either run withholds the metric or where different judges decided it; `note` gives the reason. `note` also reports
    whether other models answered as the judge of the other run, or were asked with other parameters.
    """
    ours = SummaryFile.model_validate(summary | {"split": summary["split"] or ""})
    values = values_of(records, official=ours.protocol == "official")
    metrics: dict[str, dict[str, Any]] = {}
    for metric in SCORED:
        mine, other = getattr(ours, metric), getattr(theirs, metric)
        judge, models = mine.judge or "", [models_of(part, mine.judge) for part in (ours, theirs)]
        gap = difference(values, others, metric)
        row: dict[str, Any] = {"difference": None, "low": None, "high": None, "n": gap.n if gap else 0, "note": None}
        if mine.withheld or other.withheld:
            row["note"] = "withheld"
        elif mine.judge != other.judge:
            row["note"] = f"judged by {other.judge} there"
        elif ours.version_of(judge) != theirs.version_of(judge):
            row["note"] = f"other {STATES.get(judge.partition(':')[0], 'guards')} there"
        elif gap:
            row |= {"difference": gap.value, "low": gap.low, "high": gap.high}
            if theirs.answered_by and judge and models[0] != models[1]:
                row["note"] = f"answered by {', '.join(models[1] or ['nobody'])} there"
            elif models[0] and ours.asked_with != theirs.asked_with:
                row["note"] = "asked with other parameters there"
        metrics[metric] = row
    if not any(of["n"] for of in metrics.values()):
        raise BadInput(f"--compare {path}: it has no question about a picture in common with this run")
    return {"summary": str(path), "judge": theirs.judge, **metrics}


def models_of(part: Summary, judge: str | None) -> list[str]:
    """The models that answered as a judge, each with its fingerprint if the server gave one."""
    answered = (of for of in part.answered_by if of.judge == judge)
    return sorted({" ".join(filter(None, (of.model, of.fingerprint))) for of in answered})


def show_differences(compared: dict[str, Any]) -> None:
    """Print the differences, in percentage points."""
    print(f"compared with {compared['summary']}:")
    rows = []
    for metric in SCORED:
        of = compared[metric]
        points = "–" if of["difference"] is None else f"{100 * of['difference']:+.1f}"
        between = "" if of["low"] is None else f"{100 * of['low']:+.1f} to {100 * of['high']:+.1f}"
        rows.append([METRICS[metric].title, points, between, str(of["n"]), of["note"] or ""])
    print_table("metric", ("difference, points", "95%", "n", Column()), rows)


def read_opinion(path: Path, options: Options, inputs: Inputs) -> Opinion:
    """Read labels (a table), or another run (its folder, its summary or its verdicts).

    Raises:
        BadInput: the file cannot be used, or is about other responses. It is raised before anything is judged.
    """
    if path.is_dir() and not options.split:
        raise BadInput(f"--agree {path}: of which split? give --split train or --split val, or name the summary itself")
    path = path / f"summary_{options.split}.json" if path.is_dir() else path
    summary, verdicts = open_run(path, "--agree", options)
    if not verdicts:
        labels, queries = read_labels(path), {query.key: query for query in inputs.queries}
        labelled: dict[Query, Label] = {}
        for key, label in labels.items():
            query = queries.get(key)
            if query is None and options.category != "all":
                continue
            if query is None or label.on != f"t{query.hash}":
                line = f"--agree {path}: line {label.line}"
                raise BadInput(f"{line}: labels another response than {options.input_file} has")
            labelled[query] = label
        # Responses without a label are assumed to be like the labelled ones in their stratum.
        clear = {query: label for query, label in labelled.items() if label.value is not None}
        given = Counter(label.stratum for label in clear.values())
        weights = {query: label.size / given[label.stratum] for query, label in clear.items()}
        values = {query: label.value for query, label in labelled.items()}
        return Opinion("labels", path.name, {"labels": path.name, "sha256": sha256(path)}, values, weights)

    data = read_records(verdicts).only(options.category)
    paired = pair_records(inputs.predictions, data, by_picture=True)
    values = {}
    for query in (query for query in inputs.queries if query.metric in LABELLED):
        raw = data.raw[paired[query.record]]
        pair = (raw | dict(enumerate(raw["unsafe_pairs"]))).get(query.place, {})
        word = pair.get(f"{query.field}_{query.metric}")
        if word is not None and pair.get(query.field) == query.response:
            values[query] = value_of(query.metric, word)
    if not values:
        raise BadInput(f"--agree {path}: {verdicts} holds no verdict on a response of this run")
    judges = dict.fromkeys(getattr(summary, ASKED[asks]).judge for asks in LABELLED) if summary else {}
    judge = ", ".join(filter(None, judges)) or None
    answered = [of.model_dump() for of in summary.answered_by] if summary else []
    record = {"judge": judge, "run": str(path), "answered_by": answered}
    return Opinion(judge or "the other judge", str(path), record, values, {})


def agree(
    opinion: Opinion, to_label: dict[str, list[Query]], verdicts: dict[Query, Verdict], figures: dict[str, Figure]
) -> dict[str, dict[str, Any]]:
    """The figures of `agreement` for each metric that the opinion covers, on the responses of `select_queries`.

    Where the opinion is labels, blank responses are `known`: nobody labels them, and the metric decides whether they
    count. A withheld figure has no corrected rate.
    """
    agreements = {}
    for asks, queries in to_label.items():
        values = {query: value for query, value in opinion.values.items() if query.metric == asks}
        blank = METRICS[ASKED[asks]].blank >= 0.5
        responses = {query: Labelled(cluster_of(query), verdicts[query].counts, blank) for query in queries}
        known = [of for query, of in responses.items() if query.blank and "labels" in opinion.record]
        others = [query for query in queries if not (query.blank and "labels" in opinion.record)]
        labelled = {
            query: responses[query]._replace(label=value >= 0.5, weight=opinion.weights.get(query, 1.0))
            for query in others
            if (value := values.get(query)) is not None
        }
        if not labelled:
            continue
        row: dict[str, Any] = {"labels": len(labelled), "unclear": [*values.values()].count(None)}
        row["table"] = table(labelled.values())
        row["unlabelled"] = sorted({query.category for query in others} - {query.category for query in labelled})
        row |= agreement([(of.cluster, of.judge) for of in responses.values()], [*labelled.values()], known)
        if withheld := figures[ASKED[asks]].withheld:
            row |= dict.fromkeys(("judge", "corrected", "low", "high")) | {"withheld": withheld}
        agreements[ASKED[asks]] = row
    return agreements


def show_agreement(agreements: dict[str, dict[str, Any]], opinion: Opinion) -> None:
    """Print the figures, one column per metric, and note the categories on which the opinion has no label."""
    print(f"compared with {opinion.name} ({opinion.source}):")
    names = {"both": "counted by both", "judge_only": "by the judge alone", "label_only": f"by {opinion.name} alone"}
    names["neither"] = "by neither"
    titles = {"kappa": "kappa (Cohen)", "sensitivity": "sensitivity, %", "specificity": "specificity, %"}
    figures = agreements.values()
    rows = [[name, *(str(of[name]) for of in figures)] for name in ("labels", "unclear")]
    rows += [[], *([title, *(str(of["table"][name]) for of in figures)] for name, title in names.items()), []]
    for name, title in titles.items():
        rows.append([title, *(format_share(of[name], "%" if "%" in title else "") for of in figures)])
    rates = (format_share({"value": of["judge"]}) for of in figures)
    corrected = (format_share({"value": of["corrected"], "low": of["low"], "high": of["high"]}) for of in figures)
    rows += [[], ["judge's rate, %", *rates], ["corrected, %", *corrected]]
    print_table("", (METRICS[metric].title for metric in agreements), rows, narrow=True)
    for metric, of in agreements.items():
        if of["unlabelled"]:
            where = f"{METRICS[metric].title} on {', '.join(of['unlabelled'])}"
            note(f"{where}: nothing by {opinion.name}, so these responses are assumed to be like the rest")


def make_disagreements_page(opinion: Opinion, to_label: dict[str, list[Query]], verdicts: dict[Query, Verdict]) -> str:
    """The HTML page of the responses on which the judge and the opinion disagree."""
    metrics = []
    for asks, queries in to_label.items():
        shown = []
        for query in queries:
            verdict, value = verdicts[query], opinion.values.get(query)
            if value is not None and (value >= 0.5) != verdict.counts:
                said = {"judge": verdict.word(asks), "label": Verdict("", value).word(asks), "where": query.where}
                shown.append(said | {name: getattr(query, name) for name in ("category", "question", "response")})
        if shown:
            metrics.append((METRICS[ASKED[asks]].title, shown))
    return render_page("disagreements.html.j2", metrics, other=opinion.name)
