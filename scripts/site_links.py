"""A hook of mkdocs: a link out of docs/ leads to the repository, or becomes text if mkdocs.yml has no `repo_url`."""

import posixpath
import re


def on_page_markdown(markdown: str, page, config, **_) -> str:
    """The text of a page in which links out of docs/ are replaced."""

    def lead(link: re.Match[str]) -> str:
        text, target = link.groups()
        place = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if place.startswith("docs/") or target.startswith(("#", "http")):
            return link[0]
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{place})" if config.repo_url else text

    return re.sub(r"\[([^\]\n]+)\]\(([^)\s]+)\)", lead, markdown)
