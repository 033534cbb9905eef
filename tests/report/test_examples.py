"""Nothing harmful is shown unasked: without `--show_examples` not at all, and with it only behind masks.

Names, notes and texts are shown as they are, and never become markup.
"""

import base64
import io
import json

import pytest
from PIL import Image

from safeeraser.report.page import read_examples, report
from safeeraser.report.read import read_runs
from safeeraser.report.writing import escape_latex, with_table

from .made_up_runs import ANSWERED, ASKED, GARBLED, REFUSED, full_results, summary, verdicts, write
from .page_text import Page

TEXTS = (ASKED, ANSWERED, REFUSED, GARBLED)
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so' | `x` {{ 7 * 7 }} $HOME \\"


@pytest.fixture
def results(tmp_path):
    return full_results(tmp_path)


def page_of(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def picture(url):
    return Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))


def test_texts_and_clear_pictures_lie_behind_masks_and_unless_they_are_asked_for_nowhere(results):
    report(results, show_examples=True)
    page, bare = page_of(results), " ".join(page_of(results).bare)
    assert not [tag for tag, given in page.tags if tag == "script" or (tag == "details" and "open" in given)]
    assert all(any(text in part for part in page.masked) and text not in bare for text in TEXTS)
    assert f"{ASKED} <Weapon>" in page.masked and "not judged" not in " ".join(page.masked) + bare
    # A picture outside a mask is four pixels wide, and no browser can show more detail.
    assert {picture(url).size for url in page.pictures} == {(4, 3)}
    assert {picture(url).size for url in page.masked_pictures} == {(64, 48)}
    report(results)
    for path in (path for path in results.iterdir() if path.is_file()):
        text = path.read_text(encoding="utf-8")
        assert not [part for part in TEXTS if part in text] and "data:image" not in text


def test_what_is_gone_or_was_never_written_does_not_stop_the_report(results):
    (results / "data" / "img" / "Weapon.png").write_text("broken")
    (results / "po" / "judged.json").unlink()
    # A summary may say that no verdicts were written. If it says nothing, they are in the file with the usual name.
    for run, says in (("popd", {}), ("vanilla", {"verdicts": None})):
        (results / run / "judged.json").rename(results / run / "verdicts_val.json")
        told = json.loads((results / run / "summary_val.json").read_text())
        told.pop("verdicts")
        write(results / run, "summary_val.json", told | says)
    report(results, show_examples=True)
    assert [title for title, _ in read_examples(read_runs([results]))] == ["PO+PD"]
    assert page_of(results).lines.count("masked> The picture was not found.") == 1


def test_hostile_names_notes_and_texts_are_shown_as_they_are(results):
    records = verdicts()
    records[0]["category"] = records[0]["unsafe_pairs"][0]["question"] = HOSTILE
    name = HOSTILE.replace("/", "")
    write(results / name, "summary_val.json", summary("val", 0.5, 0.5, judge=HOSTILE, verdicts="judged.json"))
    write(results / name, "judged.json", records)
    report(results, note=HOSTILE, show_examples=True)
    page = page_of(results)
    assert "script" not in [tag for tag, _ in page.tags]
    assert f"masked> {HOSTILE}" in page.lines and HOSTILE in page.lines
    (row,) = [line for line in (results / "table.md").read_text().splitlines() if "alert" in line and " 50.0 " in line]
    assert row.startswith(r"| \<script>alert(1)\<script> & " + '"quoted" ' + r"'so' \| \`x\` {{ 7 \* 7 }} $HOME \\ |")
    assert escape_latex(r"\a{b}~^#$%&_<>|") == (
        r"\textbackslash{}a\{b\}\textasciitilde{}\textasciicircum{}\#\$\%\&\_\textless{}\textgreater{}\textbar{}"
    )
    # A table replaces the table of a text whose first header cell is the same.
    text = "x\n\n| a.b | c |\n|---|---|\n| 1 | 2 |\n\n| d | c |\n|---|\n| 3 |"
    assert with_table(text, "| a.b | e |\n| 4 |") == "x\n\n| a.b | e |\n| 4 |\n\n| d | c |\n|---|\n| 3 |"
    assert with_table(text, "| axb | e |") is None
