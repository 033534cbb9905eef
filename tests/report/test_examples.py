"""The page's judged examples: masked, or left out."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from safeeraser.report.page import report

from .made_up_runs import ANSWERED, ASKED, GARBLED, REFUSED, full_results

TEXTS = (ASKED, ANSWERED, REFUSED, GARBLED)
VOID = {"meta", "img", "br", "path", "use", "rect"}


@pytest.fixture
def results(tmp_path):
    return full_results(tmp_path)


class Masks(HTMLParser):
    """Splits a page: texts, attributes and pictures inside masked details, and all that is not."""

    def __init__(self, text):
        super().__init__()
        self.open, self.masked, self.bare, self.attributes = [], [], [], []
        self.feed(text)

    @property
    def _sink(self):
        depth = next((i for i, (tag, cls) in enumerate(self.open) if cls == "masked"), None)
        hidden = depth is not None and "summary" not in [tag for tag, _ in self.open[depth:]]
        return self.masked if hidden else self.bare

    def handle_starttag(self, tag, attrs):
        self.attributes += [value for name, value in attrs if name != "src" and value]
        self._sink.extend(value for name, value in attrs if name == "src")
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class")))

    def handle_endtag(self, tag):
        if self.open and self.open[-1][0] == tag:
            self.open.pop()

    def handle_data(self, data):
        self._sink.append(data)


def test_texts_and_clear_pictures_stand_in_closed_details_only(results):
    report(results)
    page = (results / "report.html").read_text()
    assert not re.search(r"<details[^>]*\bopen\b", page) and "<script" not in page
    split = Masks(page)
    bare = " ".join(split.bare + split.attributes)
    for text in TEXTS:
        assert any(text in part for part in split.masked) and text not in bare
    assert f"{ASKED} <Weapon>" in split.masked and "not judged" not in page


def test_a_picture_not_yet_opened_is_four_pixels_long(results):
    report(results)
    split = Masks((results / "report.html").read_text())

    def sizes(urls):
        data = (base64.b64decode(url.split(",")[1]) for url in urls if url.startswith("data:image"))
        return {Image.open(io.BytesIO(part)).size for part in data}

    assert sizes(split.bare) == {(4, 3)} and sizes(split.masked) == {(64, 48)}


def test_each_run_shows_one_example_a_verdict_and_category(results):
    report(results)
    page = (results / "report.html").read_text()
    folds = page.split('<details class="fold">')[1:]
    assert [re.findall(r"<h4>(.*?)</h4>", fold) for fold in folds] == [
        ["Harmful picture, judged unsafe", "Benign picture, normal answer"],
        ["Harmful picture, judged a refusal", "Benign picture, no normal answer (SARR failure)"],
        ["Harmful picture, judged a refusal", "Benign picture, normal answer"],
    ]
    assert all(re.findall(r"<p>(\w+)</p>", fold) == ["Privacy", "Weapon"] * 2 for fold in folds)


def test_redacted_holds_neither_text_nor_picture(results):
    report(results, redact=True)
    for path in (path for path in results.iterdir() if path.is_file()):
        text = path.read_text()
        assert not [part for part in TEXTS if part in text] and "data:image" not in text
    assert "Left out of this page" in (results / "report.html").read_text()


def test_a_summary_may_say_that_no_verdicts_were_written(results):
    for run, told in (("po", {"verdicts": None}), ("popd", {})):
        path = results / run / "summary_val.json"
        value = {key: part for key, part in json.loads(path.read_text()).items() if key != "verdicts"}
        path.write_text(json.dumps(value | told))
        (results / run / "judged.json").rename(results / run / "verdicts_val.json")
    report(results)
    page = (results / "report.html").read_text()
    # Of PO nothing, though a file of the usual name lies there; where the key is missing, that name is meant.
    assert re.findall(r'<details class="fold">\n<summary><h3>(.*?)</h3>', page) == ["vanilla", "PO+PD"]


def test_pictures_or_verdicts_that_are_gone_do_not_stop_the_report(results):
    (results / "data" / "img" / "Weapon.png").write_text("broken")
    (results / "data" / "img" / "benign.png").unlink()
    (results / "po" / "judged.json").unlink()
    report(results)
    page = (results / "report.html").read_text()
    assert page.count("The picture was not found.") == 6 and page.count('<details class="fold">') == 2
