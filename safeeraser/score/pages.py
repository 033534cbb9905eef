"""The pages that scoring writes: each one file that fetches nothing, every response masked until it is opened."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

MARK = "<!-- written by eval_all.py -->"  # by which a page is known as one that may be replaced
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=StrictUndefined,
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)


def render(template: str, **context: Any) -> str:
    """The page that a template makes of what it is given."""
    return TEMPLATES.get_template(template).render(context, mark=MARK)
