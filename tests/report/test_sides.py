"""Two sets of runs side by side: `--compare A B`."""

import json
import subprocess
import sys

import pytest

from safeeraser.benchmark.judged import difference, values_of
from safeeraser.errors import BadInput
from safeeraser.report.page import report

from .made_up_runs import full_results, metric, seeded_results, write
from .test_page import Page

pytestmark = pytest.mark.slow


def judged(unsafe, count=40):
    """Verdicts on so many pictures, a question each, of which the first are unsafe."""
    return [
        {
            "image_path": f"{number}.png",
            "SDImage_path": f"{number}-benign.png",
            "unsafe_pairs": [{"question": "q", "model_response1_asr": "unsafe" if number < unsafe else "safe"}],
        }
        for number in range(count)
    ]


def change(folder, **changes):
    path = folder / "summary_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cells(folder, name="PO+PD"):
    """The line of a method in the table of differences."""
    lines = (folder / "table.md").read_text().split(" less ")[1].splitlines()
    head, line = (next(line for line in lines if line.startswith(f"| {start} |")) for start in ("method", name))
    return dict(zip(*([cell.strip() for cell in one.split("|")[1:-1]] for one in (head, line)), strict=True))


@pytest.fixture
def sets(tmp_path):
    for name, unsafe in (("A", 20), ("B", 8)):
        full_results(tmp_path / name)
        write(tmp_path / name / "popd", "judged.json", judged(unsafe))
        change(tmp_path / name / "popd", asr=metric(unsafe / 40, n=40))
    return tmp_path / "A", tmp_path / "B", tmp_path / "out"


def test_differences_are_paired_over_pictures(sets):
    one, other, out = sets
    report(one, other, out=out / "report.html", compared=True)
    low, high = difference(values_of(judged(8), official=True), values_of(judged(20), official=True), "asr")[1:3]
    assert -0.5 < low < -0.3 < high < -0.1
    assert cells(out)["ASR-Gen ↓"] == f"-30.0 ({100 * low:+.1f} to {100 * high:+.1f})"
    assert cells(out)["SARR ↓"] == cells(out)["ASR-Eff ↓"] == "–", "no verdicts to pair by"
    assert cells(out, "PO")["ASR-Gen ↓"] == "+0.0"
    rows = Page((out / "report.html").read_text()).rows
    assert {"PO+PD (A)", "PO+PD (B)"} <= {row[0] for row in rows}
    assert [row[0] for row in rows if row[1:] and row[1].startswith("-30.0")] == ["PO+PD"]


def test_what_does_not_compare_has_no_difference(sets):
    one, other, out = sets
    change(other / "popd", asr=metric(0.2, judge="openai:gpt-4o", n=40), sarr=metric(None, withheld="3% failed"))
    change(other / "po", protocol="corrected")
    report(one, other, out=out / "report.html", compared=True)
    text = (out / "table.md").read_text()
    assert "- PO+PD, ASR-Gen: judged otherwise" in text and "- PO+PD, SARR: withheld" in text
    assert "- PO, RR-Gen: judged otherwise" in text and cells(out)["ASR-Gen ↓"] == "–"


def test_requests_that_only_one_has_are_left_out_and_told(sets):
    one, other, out = sets
    write(other / "popd", "judged.json", judged(8, count=30))
    report(one, other, out=out / "report.html", compared=True)
    assert "- PO+PD, ASR-Gen: 30 of 40 answers" in (out / "table.md").read_text()
    assert cells(out)["ASR-Gen ↓"].startswith("-40.0 ")


def test_seeds_are_paired_with_their_like(tmp_path):
    one, other = seeded_results(tmp_path / "A"), seeded_results(tmp_path / "B", seeds=(1, 2, 3))
    for folder, unsafe in ((one, (30, 20, 20)), (other, (10, 12, 0))):
        for path, count in zip(sorted(folder.glob("seed*/popd")), unsafe, strict=True):
            write(path, "v.json", judged(count))
            change(path, verdicts="v.json", asr=metric(count / 40, n=40))
    report(one, other, out=tmp_path / "out" / "report.html", compared=True)
    assert cells(tmp_path / "out")["ASR-Gen ↓"].startswith("-22.5 ("), "of seeds 1 and 2: -25 and -20"


def test_sets_that_cannot_be_compared(sets, tmp_path):
    one, other, out = sets
    (tmp_path / "C").mkdir()
    (other / "popd").rename(tmp_path / "C" / "gd")
    with pytest.raises(BadInput, match=r"no method is in both; there are vanilla PO PO\+PD and GD"):
        report(one, tmp_path / "C", out=out / "report.html", compared=True)
    write(one / "po", "judged.json", [{"image_path": "a", "unsafe_pairs": 3}])
    with pytest.raises(BadInput, match=r"judged\.json: not what eval_all\.py writes"):
        report(one, other, out=out / "report.html", compared=True)
    assert not out.exists()


def test_the_command(sets):
    one, other, out = sets
    command = [sys.executable, "-m", "safeeraser.report"]
    done = subprocess.run([*command, "--compare", one, other, "--out", out / "report.html", "--redact"])
    assert done.returncode == 0 and "<h3>B less A</h3>" in (out / "report.html").read_text()
    for words in ([], [one, "--compare", one, other]):
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        assert (
            done.returncode == 2 and done.stderr == "error: name run folders, or two sets of them with --compare A B\n"
        )
