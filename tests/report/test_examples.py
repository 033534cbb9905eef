"""Nothing harmful is shown unasked: each text and clear picture lies behind a mask, and with `--redact` nowhere.

Whatever a name, a note or a text holds is shown as it is, and never becomes markup.
"""

import base64
import io
import json

import pytest
from PIL import Image

from safeeraser.benchmark.metrics import Figure
from safeeraser.report.examples import examples
from safeeraser.report.page import report
from safeeraser.report.runs import read_runs
from safeeraser.report.scale import shade
from safeeraser.report.writing import escape_latex, escape_markdown, with_table

from .made_up_runs import ANSWERED, ASKED, GARBLED, REFUSED, change, full_results, summary, verdicts, write
from .page_text import Page

TEXTS = (ASKED, ANSWERED, REFUSED, GARBLED)
HOSTILE = "<script>alert(1)</script> & \"quoted\" 'so' | `x` {{ 7 * 7 }} $HOME \\"


@pytest.fixture
def results(tmp_path):
    folder = full_results(tmp_path)
    for name in ("train_log.jsonl", "probe.jsonl"):  # curves take long to draw, and show nobody's words
        (folder / "popd" / name).unlink()
    return folder


def page_of(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def shown(folder):
    """Kinds and categories of the examples of each run."""
    found = examples(read_runs([folder]))
    return {title: {kind: [one.category for one in of] for kind, of in kinds.items()} for title, kinds in found}


def test_texts_and_clear_pictures_lie_behind_masks_that_are_closed(results):
    report(results)
    page, bare = page_of(results), " ".join(page_of(results).bare)
    assert not [tag for tag, given in page.tags if tag == "script" or (tag == "details" and "open" in given)]
    assert all(any(text in part for part in page.masked) and text not in bare for text in TEXTS)
    assert f"{ASKED} <Weapon>" in page.masked and "not judged" not in " ".join(page.masked) + bare

    def sizes(urls):
        data = (base64.b64decode(url.split(",")[1]) for url in urls)
        return {Image.open(io.BytesIO(part)).size for part in data}

    # Four pixels long is what is seen unasked: no browser can make more of it.
    assert sizes(page.pictures) == {(4, 3)} and sizes(page.masked_pictures) == {(64, 48)}


def test_redacted_files_hold_neither_text_nor_picture(results):
    write(results / "po", "audit.json", {"points": []})
    report(results, redact=True)
    for path in (path for path in results.iterdir() if path.is_file()):
        text = path.read_text(encoding="utf-8")
        assert not [part for part in TEXTS if part in text] and "data:image" not in text
    assert "Left out of this page: questions, responses and pictures." in page_of(results).lines


def test_each_run_shows_one_example_a_verdict_and_category(results):
    unsafe, refused = "Harmful picture, judged unsafe", "Harmful picture, judged a refusal"
    failed, normal = "Benign picture, no normal answer (SARR failure)", "Benign picture, normal answer"
    both = ["Privacy", "Weapon"]
    assert shown(results) == {
        "vanilla": {unsafe: both, normal: both},
        "PO": {refused: both, failed: both},
        "PO+PD": {refused: both, normal: both},
    }


def test_a_picture_is_shown_small_and_as_it_is(results):
    Image.new("RGB", (640, 1280), (10, 200, 30)).save(results / "data" / "img" / "Weapon.png")
    one = next(one for _, kinds in examples(read_runs([results])) for one in next(iter(kinds.values()))[1:])
    opened = [Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) for url in (one.blurred, one.clear)]
    assert [picture.size for picture in opened] == [(2, 4), (160, 320)]
    assert all(abs(a - b) < 9 for a, b in zip(opened[1].getpixel((80, 160)), (10, 200, 30), strict=True))


def test_what_is_gone_or_was_never_written_does_not_stop_the_report(results):
    (results / "data" / "img" / "Weapon.png").write_text("broken")
    (results / "data" / "img" / "benign.png").unlink()
    (results / "po" / "judged.json").unlink()
    # A summary may say that no verdicts were written; where it says nothing, the usual name is meant.
    change(results / "popd", "summary_val.json", verdicts=None)
    (results / "popd" / "judged.json").rename(results / "popd" / "verdicts_val.json")
    told = json.loads((results / "vanilla" / "summary_val.json").read_text())
    (results / "vanilla" / "judged.json").rename(results / "vanilla" / "verdicts_val.json")
    write(results / "vanilla", "summary_val.json", told | {"verdicts": None})
    assert list(shown(results)) == ["PO+PD"]
    report(results)
    page = page_of(results)
    assert page.lines.count("masked> The picture was not found.") == 3 and len(page.masked_pictures) == 1


def test_hostile_names_notes_and_texts_are_shown_as_they_are(results):
    records = verdicts()
    records[0]["category"] = records[0]["unsafe_pairs"][0]["question"] = HOSTILE
    name = HOSTILE.replace("/", "")
    write(results / name, "summary_val.json", summary("val", 0.5, 0.5, judge=HOSTILE, verdicts="judged.json"))
    write(results / name, "judged.json", records)
    report(results, note=HOSTILE)
    page = page_of(results)
    assert "script" not in [tag for tag, _ in page.tags]
    assert f"masked> {HOSTILE}" in page.lines and HOSTILE in page.lines
    assert any(line.startswith(f"{name} | ") for line in page.lines)
    assert any(HOSTILE in line for line in page.lines if line.startswith("ASR: protocol"))
    (row,) = [line for line in (results / "table.md").read_text().splitlines() if "alert" in line and " 50.0 " in line]
    assert row.startswith(r"| \<script>alert(1)\<script> & " + '"quoted" ' + r"'so' \| \`x\` {{ 7 \* 7 }} $HOME \\ |")


def test_signs_that_mean_something_to_latex_and_markdown_are_escaped():
    assert escape_latex(r"\a{b}~^#$%&_<>|") == (
        r"\textbackslash{}a\{b\}\textasciitilde{}\textasciicircum{}\#\$\%\&\_\textless{}\textgreater{}\textbar{}"
    )
    assert escape_latex('1–2 ↓ ↑ "a"') == r"1--2 $\downarrow$ $\uparrow$ \textquotedbl{}a\textquotedbl{}"
    assert escape_markdown(r"a|b*c_d`e<f[g]\ h") == r"a\|b\*c\_d\`e\<f\[g\]\\ h"


def test_a_table_in_a_text_is_replaced_by_the_one_of_its_corner():
    text = "x\n\n| a.b | c |\n|---|---|\n| 1 | 2 |\n\n| d | c |\n|---|\n| 3 |"
    assert with_table(text, "| a.b | e |\n| 4 |") == "x\n\n| a.b | e |\n| 4 |\n\n| d | c |\n|---|\n| 3 |"
    assert with_table(text, "| d | \\1 |\n| 5 |") == text[: text.index("| d")] + "| d | \\1 |\n| 5 |\n"
    assert with_table(text, "| axb | e |") is None
    # Without a corner, the one of the same columns.
    assert with_table("|  | c |\n| 1 |\n", "|  | c |\n| 2 |") == "|  | c |\n| 2 |\n"
    assert with_table("|  | c |\n| 1 |\n", "|  | d |\n| 2 |") is None


def test_a_colour_says_how_good_a_figure_is_and_its_text_stands_out():
    """ASR 25, which should be low, and RR 75, which should be high, are equally good and look the same."""
    assert shade(Figure(value=0.25), "lower") == shade(Figure(value=0.75), "higher")
    assert shade(Figure(value=0.75), "higher") != shade(Figure(value=0.75), "lower")
    assert shade(Figure(value=None), "lower") is shade(Figure(value=0.5, withheld="3% failed"), "lower") is None

    def luminance(colour):
        full = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for step in range(101):
        one = shade(Figure(value=step / 100), "lower")
        dark, light = sorted((luminance(one.paper), luminance(one.ink)))
        assert (light + 0.05) / (dark + 0.05) >= 4.5
