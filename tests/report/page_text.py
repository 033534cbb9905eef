"""A page of the report as plain text, so that tests compare its content and not its markup."""

from html.parser import HTMLParser

_BLOCKS = {"title", "h1", "h2", "h3", "h4", "p", "li", "dt", "dd", "tr", "caption", "figcaption", "summary", "figure"}
_VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The content of a page.

    Attributes:
        lines: a line for each block and each row of a table. A coloured cell begins with its colour, a drawing is its
            description, and a line behind a mask begins with `masked>`. `text` has all lines.
        bare, masked: the texts outside masks, with the attributes of all tags but `src`, and the texts behind masks.
        pictures, masked_pictures: the sources of the images outside and behind masks.
        ids, fetched: the ids of its tags, and the addresses outside the page that it refers to.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.lines, self.bare, self.masked, self.pictures, self.masked_pictures = [], [], [], [], []
        self.ids, self.fetched, self.tags, self._open, self._line = [], [], [], [], ""
        self.feed(text)
        self._end_line()
        self.text = "".join(f"{line}\n" for line in self.lines)

    @property
    def _is_masked(self) -> bool:
        depth = next((number for number, (_, kind) in enumerate(self._open) if kind == "masked"), None)
        return depth is not None and "summary" not in [tag for tag, _ in self._open[depth:]]

    def _end_line(self) -> None:
        line = " ".join(self._line.split())
        if line:
            self.lines.append(f"masked> {line}" if self._is_masked else line)
        self._line = ""

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag in _BLOCKS:
            self._end_line()
        if tag in ("td", "th"):
            colour = given.get("style", "").partition(";")[0].removeprefix("background:")
            self._line += " | " * bool(self._line) + colour + " "
        if given.get("role") == "img":
            self._line += f"[drawn: {given['aria-label']}]"
        if tag == "small":
            self._line += " "
        if tag == "img":
            (self.masked_pictures if self._is_masked else self.pictures).append(given["src"])
            self._line += f"[picture: {given['alt']}]"
            self._end_line()
        self.tags.append((tag, given))
        self.ids += [given["id"]] if "id" in given else []
        self.bare += [value for name, value in attrs if name != "src" and value]
        fetching = [given[key] for key in ("src", "href", "xlink:href") if key in given]
        self.fetched += [value for value in fetching if not value.startswith(("#", "data:"))]
        if tag not in _VOID:
            self._open.append((tag, given.get("class")))

    def handle_endtag(self, tag):
        if tag in _BLOCKS:
            self._end_line()
        if self._open and self._open[-1][0] == tag:
            self._open.pop()

    def handle_data(self, data):
        (self.masked if self._is_masked else self.bare).append(data)
        if not {"svg", "style"} & {tag for tag, _ in self._open}:
            self._line += data
