"""A hook of mkdocs: a link that leaves docs/ leads to the repository, or is text where mkdocs.yml has no `repo_url`."""

import posixpath
import re


def on_page_markdown(markdown: str, page, config, **_) -> str:
    """The text of a page with such links replaced."""

    def lead(link: re.Match[str]) -> str:
        text, target = link.groups()
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if place.startswith("docs/") or target.startswith(("#", "http")):
            return link[0]
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{place})" if config.repo_url else text

    return re.sub(r"\[([^\]\n]+)\]\(([^)\s]+)\)", lead, markdown)
