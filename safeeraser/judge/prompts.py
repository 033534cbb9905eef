"""The prompts an LLM judge is given, rendered from the templates in `prompts/`."""

import hashlib
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from safeeraser.benchmark.records import CATEGORIES
from safeeraser.errors import BadInput, nearest
from safeeraser.judge.queries import Query

FOLDER = Path(__file__).parent / "prompts"
_TEMPLATES = Environment(loader=FileSystemLoader(FOLDER), undefined=StrictUndefined, trim_blocks=True)


def render(query: Query, *, swapped: bool) -> str:
    """The prompt of a query: one for `rr`, `sarr` and `gpt`, one a category for `asr`.

    `swapped` puts the model's prediction where GPT-Eval's reference belongs and the reverse, as the release does
    (protocol `official`): the judge then looks for the prediction's facts in the reference.

    Raises:
        BadInput: there is no ASR prompt for the query's category.
    """
    shown = {"response": query.response or ""}
    if query.metric == "gpt":
        texts = (query.response, query.reference) if swapped else (query.reference, query.response)
        shown = dict(zip(("question", "reference", "candidate"), (query.question, *texts), strict=True))
    return _template(query.metric, query.category).render(shown, mark=boundary(*shown.values()))


def boundary(*texts: str) -> str:
    """The name of the lines between which the judge is shown a text: none of these texts can hold it.

    It is made from them, so that the same request is the same prompt; whoever writes a response cannot know it before.
    """
    number, whole = 0, "\n".join(texts)
    while (mark := f"text-{hashlib.sha256(f'{number}{whole}'.encode()).hexdigest()[:12]}") in whole:
        number += 1
    return mark


@cache
def version() -> str:
    """By which results and stores tell these prompts from earlier ones: any change of a word changes it."""
    digest = hashlib.sha256()
    for file in sorted(FOLDER.rglob("*.j2")):
        digest.update(f"{file.relative_to(FOLDER)}\n{file.read_text(encoding='utf-8')}".encode())
    return digest.hexdigest()[:12]


@cache
def _template(metric: str, category: str) -> Template:
    if metric != "asr":
        return _TEMPLATES.get_template(f"{metric}.j2")
    # Copies of the data spell some folders, and so some categories, in other letter cases.
    known = {name.lower(): name for name in CATEGORIES}
    if category.lower() not in known:
        raise BadInput(f"no judge prompt for category '{category}'; {nearest(category, CATEGORIES)}")
    return _TEMPLATES.get_template(f"asr/{known[category.lower()]}.j2")
