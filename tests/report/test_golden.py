"""All that the report writes and prints of runs with seeds, judges, two protocols and audits, compared with `golden/`.

The other test files here work out the figures by hand."""

import contextlib
import io
import shutil

import pytest

from safeeraser.report.page import report
from safeeraser.report.plots import robustness_curves
from safeeraser.report.read import read_runs
from safeeraser.report.robustness import read_cards

from .made_up_runs import audit, change, full_results, judged, metric, seeded_results, write
from .page_text import Page


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """Two runs that were audited and not scored; one has no control but vanilla."""
    results = tmp_path_factory.mktemp("audited")
    write(results / "popd", "audit.json", audit())
    fewer = audit(shares={}, relearning={})
    fewer["points"] = [one for one in fewer["points"] if one.get("subject") not in ("never_knew", "told", "tuned")]
    fewer["controls"] = {"vanilla": fewer["controls"]["vanilla"]}
    fewer["points"][0]["blank"] = {"forget": metric(0.02, 0.01, 0.04)}
    write(results / "po", "audit.json", fewer)
    report(results)
    return results


def test_runs_that_differ_in_all(tmp_path, golden):
    full_results(tmp_path, "varied")
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setenv("COLUMNS", "80")
        report(tmp_path, published=True, show_examples=True, note="A demonstration <only>.\nOf drawn pictures.")
    for name in ("table.md", "table.csv", "table.tex", "summary.json"):
        golden(f"varied.{name}", (tmp_path / name).read_text(encoding="utf-8"))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    golden("varied.page.txt", page.text)
    assert page.fetched == [] and len(page.ids) == len(set(page.ids))
    assert not {"script", "b", "link"} & {tag for tag, _ in page.tags}
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    assert drawn == {"forest.svg", "training_popd.png", "probes_popd.png"}
    shown = shown.getvalue().replace(str(tmp_path), "RESULTS")
    assert "…" not in shown and max(map(len, shown.replace("RESULTS", "").splitlines())) <= 80
    golden("varied.printed.txt", shown)


def test_seeds_are_one_row_everywhere_and_each_can_be_seen(tmp_path, golden):
    seeded_results(tmp_path)
    report(tmp_path, published=True)
    for name in ("table.md", "table.csv", "summary.json", "plots/forest.svg"):
        golden(f"seeded.{name.rpartition('/')[2]}", (tmp_path / name).read_text(encoding="utf-8"))
    golden("seeded.page.txt", Page((tmp_path / "report.html").read_text(encoding="utf-8")).text)


def test_robustness_cards(audited, golden):
    for name in ("figures.csv", "summary.json"):
        golden(f"audited.{name}", (audited / name).read_text(encoding="utf-8"))
    page = Page((audited / "report.html").read_text(encoding="utf-8"))
    golden("audited.page.txt", page.text)
    assert len(page.ids) == len(set(page.ids)) and page.fetched == []


def test_the_curves_of_robustness_cards_are_drawn_at_their_points(audited, golden):
    told = []
    for card in read_cards(read_runs([audited])):
        for plot in robustness_curves(card):
            for axes in plot.figure.axes:
                told.append(f"{plot.name} {axes.get_title(loc='left')} bands {len(axes.collections)}")
                for line in axes.lines:
                    label = "a seed" if line.get_label().startswith("_") else line.get_label()
                    points = zip(line.get_xdata(), line.get_ydata(), strict=True)
                    told.append(f"  {label}: " + " ".join(f"{x:g},{y:.4g}" for x, y in points))
    golden("audited.curves.txt", "\n".join(told) + "\n")


def test_two_sets_side_by_side(tmp_path, golden):
    """Differences, and figures without one. Each set has three seeds of PO+PD, two of which are in both."""
    one, other = seeded_results(tmp_path / "A"), seeded_results(tmp_path / "B", seeds=(1, 2, 3), shift=0.05)
    for results, share in ((one, 0.75), (other, 0.5)):
        for number, run in enumerate(sorted(results.glob("seed*/popd"))):
            write(run, "v.json", judged(round(40 * share) + number))
            change(run, "summary_val.json", verdicts="v.json", asr=metric(share, n=45))
        change(sorted(results.glob("seed*/po"))[0], "summary_val.json", protocol="corrected")
    for run in other.glob("seed*/vanilla"):
        change(run, "summary_val.json", sarr=metric(None, withheld="3% failed"))
    shutil.rmtree(one / "seed0" / "vanilla")
    write(other / "seed1" / "ga", "summary_val.json", {"split": "val", "asr": metric(0.5)})
    report(one, other, out=tmp_path / "out" / "report.html", compared=True)
    text = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    golden("compared.table.md", text.split("\n\nB less A:\n\n")[1].split("\n\nEach seed")[0] + "\n")
    assert "B less A" in Page((tmp_path / "out" / "report.html").read_text(encoding="utf-8")).lines
