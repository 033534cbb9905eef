"""How well do the string rules distinguish answers, refusals and degenerate texts? Prints precision and recall.

    python benchmarks/wording.py                      # a second
    python benchmarks/wording.py --show               # with the texts that are misjudged

The texts are in tests/data/wording/: the rules were set on `corpus.jsonl`, and `heldout.jsonl` was written before the
rules. A real answer that a rule calls degenerate or a refusal is a false alarm; exit code 1 if there is one.
"""

import json
from collections.abc import Callable
from pathlib import Path

from shared import show

from safeeraser.arguments import Arguments
from safeeraser.benchmark.wording import is_degenerate, is_refusal
from safeeraser.errors import command

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data" / "wording"
RULES: dict[str, Callable[[str], bool]] = {"refusal": is_refusal, "degenerate": is_degenerate}


def judged(file: Path) -> list[dict]:
    """The texts of a file, each with its `line` and each rule's verdict."""
    texts = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return [
        {**text, "line": number, **{f"is {label}": rule(text["text"]) for label, rule in RULES.items()}}
        for number, text in enumerate(texts, 1)
    ]


def right(text: dict) -> bool:
    """Whether both rules agree with the label of a text."""
    return all(text[f"is {label}"] == (text["label"] == label) for label in RULES)


def in_all(name: str, label: str, texts: list[dict]) -> list[str]:
    """A rule's precision and recall, its false alarms on answers, and the number of texts that it missed."""
    called, meant = ([t for t in texts if t[f"is {label}"]], [t for t in texts if t["label"] == label])
    hit, alarms = (sum(text["label"] == of for text in called) for of in (label, "answer"))
    shares = (f"{hit / max(1, len(of)):.3f}" for of in (called, meant))
    return [name, f"is_{label}", *shares, str(alarms), str(len(meant) - hit)]


@command
def main() -> int:
    """Judge the texts and print the table."""
    parser = Arguments(prog="python benchmarks/wording.py", description=__doc__)
    parser.add_argument("--show", action="store_true", help="print the misjudged texts, not only their places")
    given = parser.parse_args()
    texts = {file.name: judged(file) for file in sorted(FOLDER.glob("*.jsonl"))}
    for name, mine in texts.items():
        for text in mine:
            if not right(text):
                called = " and ".join(label for label in RULES if text[f"is {label}"]) or "answer"
                shown = f": {text['text']!r}" if given.show else ""
                print(f"{name}:{text['line']} {text['kind']}: {text['label']} taken for {called}{shown}")
    heads = ["file", "rule", "precision", "recall", "false alarms on answers", "missed"]
    show(heads, [in_all(name, label, mine) for name, mine in texts.items() for label in RULES], left=2)
    alarms = sum(not right(text) for mine in texts.values() for text in mine if text["label"] == "answer")
    return 1 if alarms else 0


if __name__ == "__main__":
    main()
