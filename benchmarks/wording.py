"""How well do the string rules tell answers, refusals and text without sense apart? Prints precision and recall.

    python benchmarks/wording.py                      # a second
    python benchmarks/wording.py --show               # with the texts that are misjudged

Judged are the texts in tests/data/wording/: `corpus.jsonl`, by which the rules were set, and `heldout.jsonl`, which was
written before that and by which none was set. A real answer that is called degenerate or a refusal is a
false alarm; exit code 1 if there is one.
"""

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from safeeraser.arguments import Arguments
from safeeraser.benchmark.wording import is_degenerate, is_refusal
from safeeraser.errors import command

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "wording"
RULES: dict[str, Callable[[str], bool]] = {"refusal": is_refusal, "degenerate": is_degenerate}


def judged(file: Path) -> list[dict]:
    """The texts of a file with their `line` and what each rule says of them."""
    texts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        {**text, "line": number, **{f"is {label}": rule(text["text"]) for label, rule in RULES.items()}}
        for number, text in enumerate(texts, 1)
    ]


def right(text: dict) -> bool:
    """Whether both rules say of a text what its label says."""
    return all(text[f"is {label}"] == (text["label"] == label) for label in RULES)


def by_kind(texts: list[dict], title: str) -> Table:
    """A row a kind. For refusals and broken texts `right` is the recall, for answers the share without false alarm."""
    table = Table("label", "kind", "texts", "called refusal", "called degenerate", "right", title=title)
    for label, kind in dict.fromkeys((text["label"], text["kind"]) for text in texts):
        mine = [text for text in texts if (text["label"], text["kind"]) == (label, kind)]
        called = [str(sum(text[f"is {name}"] for text in mine) or "-") for name in RULES]
        table.add_row(label, kind, str(len(mine)), *called, f"{sum(map(right, mine)) / len(mine):.0%}")
    return table


def in_all(texts: dict[str, list[dict]]) -> Table:
    """Precision and recall of each rule on each file."""
    table = Table("file", "rule", "precision", "recall", "false alarms on answers", "missed", title="in all")
    for name, mine in texts.items():
        for label in RULES:
            called, meant = ([t for t in mine if t[f"is {label}"]], [t for t in mine if t["label"] == label])
            hit = sum(text["label"] == label for text in called)
            alarms = sum(text["label"] == "answer" for text in called)
            row = (f"{hit / max(1, len(called)):.3f}", f"{hit / max(1, len(meant)):.3f}", alarms, len(meant) - hit)
            table.add_row(name, f"is_{label}", *map(str, row))
    return table


@command
def main() -> int:
    """Judge, print."""
    parser = Arguments(prog="python benchmarks/wording.py", description=__doc__)
    parser.add_argument("--show", action="store_true", help="print the misjudged texts, not only their places")
    show = parser.parse_args().show
    texts = {file.name: judged(file) for file in sorted(FOLDER.glob("*.jsonl"))}
    console = Console()
    for name, mine in texts.items():
        console.print(by_kind(mine, name))
        for text in mine:
            if not right(text):
                called = " and ".join(label for label in RULES if text[f"is {label}"]) or "answer"
                shown = f": {escape(repr(text['text']))}" if show else ""
                console.print(f"{name}:{text['line']} {text['kind']}: {text['label']} taken for {called}{shown}")
    console.print(in_all(texts))
    alarms = sum(not right(text) for mine in texts.values() for text in mine if text["label"] == "answer")
    return 1 if alarms else 0


if __name__ == "__main__":
    main()
