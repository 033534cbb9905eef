"""All that the report writes and prints, compared whole with the files in `golden/`: tables in each form, the page's
text, `summary.json`, a plot, and the robustness card's files, of runs with seeds, judges, two protocols and audits.

conftest.py says how to write the files anew. What the figures must be is worked out by hand in the other files here.
"""

import contextlib
import io
import shutil

import pytest

from safeeraser.report.page import report
from safeeraser.report.robustness.card import read_cards
from safeeraser.report.robustness.plots import curves as card_curves
from safeeraser.report.runs import read_runs

from .made_up_audits import audit, controlled
from .made_up_runs import change, metric, seeded_results, varied_results, verdicts, write
from .page_text import Page


def printed(*folders, **how):
    """The report of some folders; returns what it printed on a terminal of 80 columns."""
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setenv("COLUMNS", "80")
        report(*folders, **how)
    return shown.getvalue()


@pytest.fixture(scope="module")
def varied(tmp_path_factory):
    """Its folder, and what was printed."""
    results = varied_results(tmp_path_factory.mktemp("varied"))
    return results, printed(results, published=True, note="A demonstration <only>.\nOf drawn pictures.")


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Two runs that were audited and not scored, one as an earlier version did."""
    results = tmp_path_factory.mktemp("audited")
    write(results / "popd", "audit.json", controlled())
    earlier = audit()
    for one, share in ((earlier["points"][0], 0.02), (earlier["points"][1], 0.5)):
        one["blank"] = {"forget": metric(share, share / 2, 2 * share)}
    write(results / "po", "audit.json", earlier)
    report(results)
    return results


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    results = seeded_results(tmp_path_factory.mktemp("seeded"))
    report(results, published=True)
    return results


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Two sets: differences, and what there is none of; three seeds of PO+PD, of which two are in both."""
    folder = tmp_path_factory.mktemp("sets")
    one, other = seeded_results(folder / "A"), seeded_results(folder / "B", seeds=(1, 2, 3), shift=0.05)
    for results, share in ((one, 0.75), (other, 0.5)):
        for number, run in enumerate(sorted(results.glob("seed*/popd"))):
            write(run, "v.json", _judged(round(40 * share) + number))
            change(run, "summary_val.json", verdicts="v.json", asr=metric(share, n=45))
        change(sorted(results.glob("seed*/po"))[0], "summary_val.json", protocol="corrected")
    for run in other.glob("seed*/vanilla"):
        change(run, "summary_val.json", sarr=metric(None, withheld="3% failed"))
    shutil.rmtree(one / "seed0" / "vanilla")
    write(other / "seed1" / "ga", "summary_val.json", {"split": "val", "asr": metric(0.5)})
    report(one, other, out=folder / "out" / "report.html", compared=True, redact=True)
    return folder / "out"


def _judged(unsafe):
    """Verdicts on 40 pictures, a question each, of which the first are unsafe."""
    (record, *_) = verdicts()
    pairs = [[{"question": "q", "model_response1_asr": "unsafe" if n < unsafe else "safe"}] for n in range(40)]
    return [record | {"image_path": f"{n}.png", "unsafe_pairs": pair} for n, pair in enumerate(pairs)]


@pytest.mark.parametrize("name", ["table.md", "table.csv", "table.tex", "summary.json"])
def test_tables_and_summary_of_runs_that_differ_in_all(varied, golden, name):
    golden(f"varied.{name}", (varied[0] / name).read_text(encoding="utf-8"))


def test_the_page_of_them_says_the_same_and_stands_alone(varied, golden):
    folder, _ = varied
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    golden("varied.page.txt", page.text)
    assert page.fetched == [] and len(page.ids) == len(set(page.ids))
    assert not {"script", "b", "link"} & {tag for tag, _ in page.tags}
    drawn = {path.name for path in (folder / "plots").iterdir()}
    assert drawn == {"forest.svg", "training_popd.png", "probes_popd.png"}


def test_what_is_printed_fits_eighty_columns(varied, golden):
    folder, shown = varied
    assert "…" not in shown and max(map(len, shown.replace(str(folder), "").splitlines())) <= 80
    golden("varied.printed.txt", shown.replace(str(folder), "RESULTS"))


@pytest.mark.parametrize("name", ["table.md", "table.csv", "summary.json", "plots/forest.svg"])
def test_seeds_are_one_row_everywhere_and_each_can_be_seen(seeded, golden, name):
    golden(f"seeded.{name.rpartition('/')[2]}", (seeded / name).read_text(encoding="utf-8"))


def test_the_page_of_seeds_names_the_best_and_what_made_the_figures(seeded, golden):
    golden("seeded.page.txt", Page((seeded / "report.html").read_text(encoding="utf-8")).text)


@pytest.mark.parametrize("name", ["robustness.md", "robustness.csv", "summary.json"])
def test_the_files_of_robustness_cards(audited, golden, name):
    golden(f"audited.{name}", (audited / name).read_text(encoding="utf-8"))


def test_the_page_of_robustness_cards(audited, golden):
    page = Page((audited / "report.html").read_text(encoding="utf-8"))
    # The tables stand in robustness.md; here it is what stands around them.
    golden("audited.page.txt", "".join(f"{line}\n" for line in page.lines if " | " not in line))
    assert len(page.ids) == len(set(page.ids)) and page.fetched == []
    drawn = {f"{name}.png" for name in ("relearning_po", "scaling_po", "relearning_popd", "scaling_popd", "depth_popd")}
    drawn |= {"robustness_po.svg", "robustness_popd.svg"}
    assert {path.name for path in (audited / "plots").iterdir()} == drawn


def test_the_curves_of_robustness_cards_are_drawn_at_their_points(audited, golden):
    """Each line of each panel, with what a band or a line across stands for left out."""
    told = []
    for card in read_cards(read_runs([audited])):
        for plot in card_curves(card):
            for axes in plot.figure.axes:
                told.append(f"{plot.name} {axes.get_title(loc='left')} bands {len(axes.collections)}")
                told += [f"  {_label(line)}: {_points(line)}" for line in axes.lines]
    golden("audited.curves.txt", "\n".join(told) + "\n")


def _label(line):
    return "a seed" if line.get_label().startswith("_") else line.get_label()


def _points(line):
    return " ".join(f"{x:g},{y:.4g}" for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True))


def test_two_sets_side_by_side(compared, golden):
    table = (compared / "table.md").read_text(encoding="utf-8").split("\n\nB less A:\n\n")[1].split("\n\nEach seed")[0]
    golden("compared.table.md", table + "\n")
    assert "B less A" in Page((compared / "report.html").read_text(encoding="utf-8")).lines


def test_the_same_runs_give_the_same_bytes(tmp_path):
    write(tmp_path / "po", "summary_val.json", {"split": "val", "asr": metric(0.5)})
    write(tmp_path / "po", "train_log.jsonl", [{"step": 1, "loss": 2.0}, {"step": 3, "loss": 1.0}])
    report(tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    report(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first
