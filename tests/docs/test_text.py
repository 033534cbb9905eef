"""The pages refer to files that exist, and README.md and the site lead to every page. Pages are plain to read: they
have short sentences. Neither pages nor messages have words that mislead."""

import ast
import re

import pytest

from .pages import PAGES, ROOT, prose, unfenced

LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
DOCUMENTS = [page for page in PAGES if page.parent.name not in ("tests", "benchmarks") and page.name != "CHANGELOG.md"]
AVOIDED = re.compile(
    r"\b(?:told|(?:fore)?tells?|hangs? on|go(?:es)? on with|wants|of it|stands?(?! for|-)|salad|unseen)\b|^Of \w[^.]*,"
)
SPEAKS = {"BadInput", "error", "info", "note", "warning", "print"}
CODE = [file for place in ("safeeraser", "workflow", "scripts", "benchmarks") for file in (ROOT / place).rglob("*.py")]


def anchors(page) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", unfenced(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_and_anchor_is_there(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists() and there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


def test_readme_and_the_site_lead_to_every_page():
    readme, site = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    listed = {ROOT / "docs" / page for page in re.findall(r"[\w/-]+\.md", site)}
    assert {*PAGES} - {ROOT / "README.md"} <= {ROOT / link.partition("#")[0] for link in LINK.findall(readme)}
    assert listed == {page for page in PAGES if ROOT / "docs" in page.parents}


def test_code_and_config_files_name_pages_that_are_there():
    files = [file for room in ("config", "safeeraser", "scripts", "workflow") for file in (ROOT / room).rglob("*.*")]
    texts = {
        file: file.read_text(encoding="utf-8") for file in files if file.suffix in (".py", ".yaml", ".bash", ".md")
    }
    named = {(file.name, page) for file, text in texts.items() for page in re.findall(r"\bdocs/[\w/-]+\.md", text)}
    assert len(named) > 9 and not [each for each in named if not (ROOT / each[1]).is_file()]


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short_and_plain(page):
    parts = re.split(r"\n\s*\n|^\s*(?:-|\d+\.) |:\n", prose(page), flags=re.MULTILINE)
    said = [one for part in parts for one in re.split(r"(?<=[.!?])[\")]?\s+(?=[\"(A-Z0-9`λθ])", part) if one.strip()]
    lengths = [len(one.split()) for one in said]
    assert [one for one in said if len(one.split()) > 30] == [] and sum(lengths) <= 18 * len(lengths)
    tables = re.findall(r"^\|.*", re.sub(r"`[^`\n]*`", "", page.read_text(encoding="utf-8")), re.MULTILINE)
    assert [one for one in (*said, *tables) if AVOIDED.search(" ".join(one.split()))] == []


def messages(call: ast.Call) -> list[str]:
    """The texts in a call that a user may read: errors, log lines, prints and help."""
    shown = [*call.args] if getattr(call.func, "id", getattr(call.func, "attr", "")) in SPEAKS else []
    shown += [each.value for each in call.keywords if each.arg in ("help", "description")]
    parts = [getattr(each, "value", None) for part in shown for each in ast.walk(part)]
    return [each for each in parts if isinstance(each, str)]


def test_so_are_messages():
    trees = [ast.walk(ast.parse(file.read_text(encoding="utf-8"))) for file in [*CODE, *ROOT.glob("*.py")]]
    said = [one for tree in trees for call in tree if isinstance(call, ast.Call) for one in messages(call)]
    assert len(said) > 500 and [one for one in said if AVOIDED.search(one)] == []
