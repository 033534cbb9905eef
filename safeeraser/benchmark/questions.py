"""Make a data file of questions that test for needless refusals: `python -m safeeraser.benchmark.questions FILE ...`.

FILE is CSV, JSON or JSON lines, with or without pictures: from XSTest, MOSSBench, HoliSafe, or your own. Each question
becomes a record of category `answer` or `refuse`, whichever is right, for `ckpt_infer.py --only forget`. Then
`eval_all.py` reports RR by category: the rate of needless refusals, and of refusals that are due.
"""

import csv
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import read_json, read_json_lines, write_json
from safeeraser.benchmark.pictures import find_picture
from safeeraser.errors import BadInput, command

YES = ("true", "yes", "1")


@dataclass(frozen=True)
class Form:
    """The keys of a file of questions; a key in a nested object has dots between its parts.

    Attributes:
        image: the picture's file; empty, null or missing: the question is text alone.
        kind: the sort of question, kept as the record's keyword, by which figures are broken down too.
        answered, by: the key that says whether a question should be answered, and its values for yes; no key: always.
    """

    prompt: str
    image: str = ""
    kind: str = ""
    answered: str = ""
    by: tuple[str, ...] = YES


FORMS = {
    "own": Form("prompt", "image", "kind", "answer"),
    "xstest": Form("prompt", kind="type", answered="label", by=("safe",)),  # arXiv 2308.01263
    "mossbench": Form("question", "image", "metadata.over"),  # arXiv 2406.17806: all questions are harmless
    "holisafe": Form("query", "image", "category", "type", ("SSS",)),  # arXiv 2506.04704: safe picture, text and both
}


def read_questions(file: Path) -> list[dict[str, Any]]:
    """The objects in a file, read by its file extension. Raises `BadInput` if it holds none."""
    if file.suffix == ".csv":
        if not file.is_file():
            raise BadInput(f"{file}: no such file")
        with file.open(encoding="utf-8-sig", newline="") as handle:
            values: Any = list(csv.DictReader(handle))
    else:
        values = read_json_lines(file) if file.suffix == ".jsonl" else read_json(file)
    values = list(values.values()) if isinstance(values, dict) else values
    if not isinstance(values, list) or not values or not all(isinstance(value, dict) for value in values):
        raise BadInput(f"{file}: must hold questions, each an object (CSV with a head, a JSON list, or JSON lines)")
    return values


def records_of(file: Path, form: Form, folder: Path) -> Iterator[dict[str, Any]]:
    """A record for each question; pictures are named relative to `folder`, where the records will lie.

    Raises:
        BadInput: a key or a picture is missing. The message names the question's number and the key, and shows no text.
    """
    for number, value in enumerate(read_questions(file)):
        where = f"{file}: question {number}"
        prompt = _at(value, form.prompt)
        if not str(prompt or "").strip():
            raise BadInput(f"{where}, {form.prompt}: missing or blank; --prompt names another key")
        answered = _at(value, form.answered)
        if form.answered and answered is None:
            raise BadInput(f"{where}, {form.answered}: missing; --answered names another key")
        picture = name = _at(value, form.image)
        if name:
            path = find_picture(str(name), file)
            if path is None:
                raise BadInput(f"{where}, {form.image}: picture {name} not found")
            picture = os.path.relpath(path, folder)
        due = form.answered and str(answered).strip().lower() not in [yes.lower() for yes in form.by]
        yield {
            "keyword": str(_at(value, form.kind) or ""),
            "category": "refuse" if due else "answer",
            "image_path": picture or None,
            "unsafe_pairs": [{"question": str(prompt)}],
        }


def _at(value: dict[str, Any], key: str) -> Any:
    """The value at a key with dots in an object; None if there is none."""
    inner: Any = value
    for part in key.split("."):
        inner = inner.get(part) if isinstance(inner, dict) else None
    return inner


@command
def main(argv: list[str] | None = None) -> None:
    """Read the command line, write the data file, and print how many questions each category has."""
    parser = Arguments(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", type=Path, help="the questions")
    parser.add_argument(
        "--out", type=Path, required=True, help="the data file, with val in its name, as in xstest_val.json"
    )
    parser.add_argument("--form", choices=FORMS, default="own", help="whose keys the file has (default: %(default)s)")
    parser.add_argument("--prompt", metavar="KEY", help="the question, in place of the form's key")
    parser.add_argument("--image", metavar="KEY", help="the picture's file")
    parser.add_argument("--kind", metavar="KEY", help="what sort of question it is")
    parser.add_argument(
        "--answered", metavar="KEY=VALUE,...", help="by which values of which key it should be answered"
    )
    given = parser.parse_args(argv)
    keys = {key: getattr(given, key) for key in ("prompt", "image", "kind") if getattr(given, key) is not None}
    if given.answered:
        keys["answered"], _, values = given.answered.partition("=")
        keys |= {"by": tuple(values.split(",")) if values else YES}
    form = Form(**(vars(FORMS[given.form]) | keys))
    records = list(records_of(given.file, form, given.out.absolute().parent))
    if given.out.exists() and read_json(given.out) != records:
        raise BadInput(f"--out {given.out}: exists and holds something else; name another file")
    write_json(given.out, records)
    counts = Counter(record["category"] for record in records)
    print(f"{given.out}: {', '.join(f'{counts[name]} to {name}' for name in ('answer', 'refuse') if counts[name])}")


if __name__ == "__main__":
    main()
