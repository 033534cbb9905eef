"""Two sets of runs side by side: differences are paired over requests and seeds, and there is none of what differs."""

import pytest

from safeeraser.benchmark.judged import difference, values_of
from safeeraser.report.runs import read_runs
from safeeraser.report.seeds import methods
from safeeraser.report.sides import sides_table

from .made_up_runs import change, full_results, metric, seeded_results, write


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


def sides(one, other, name="PO+PD"):
    """A method's differences, by column, with what stands beside them; and the table's remarks."""
    table = sides_table(methods(read_runs([one, other], compared=True)), one, other)
    row = next(row for row in table.rows if row.name == name)
    shown = zip(table.columns, table.line(row), strict=True)
    return {key: "; ".join([cell.text, *cell.remarks]) for key, cell in shown}, table.remarks


@pytest.fixture
def sets(tmp_path):
    for name, unsafe in (("A", 20), ("B", 8)):
        full_results(tmp_path / name)
        write(tmp_path / name / "popd", "judged.json", judged(unsafe))
        change(tmp_path / name / "popd", "summary_val.json", asr=metric(unsafe / 40, n=40))
    return tmp_path / "A", tmp_path / "B"


def test_differences_are_paired_over_pictures(sets):
    found, remarks = sides(*sets)
    low, high = difference(values_of(judged(8), official=True), values_of(judged(20), official=True), "asr")[1:3]
    assert -0.5 < low < -0.3 < high < -0.1
    assert found["asr_gen"] == f"-30.0 ({100 * low:+.1f} to {100 * high:+.1f})"
    assert found["sarr"] == found["asr_eff"] == "–", "no verdicts to pair by" and remarks == []
    assert sides(*sets, name="PO")[0]["asr_gen"].startswith("+0.0")


@pytest.mark.parametrize(
    ("changes", "key", "cell"),
    [
        ({"asr": metric(0.2, judge="openai:gpt-4o", n=40)}, "asr_gen", "–; judged otherwise"),
        ({"protocol": "corrected"}, "asr_gen", "–; judged otherwise"),
        ({"sarr": metric(None, withheld="3% failed")}, "sarr", "–; withheld"),
        ({"verdicts": "gone.json"}, "asr_gen", "–"),
    ],
)
def test_what_does_not_compare_has_no_difference(sets, changes, key, cell):
    change(sets[1] / "popd", "summary_val.json", **changes)
    assert sides(*sets)[0][key] == cell


def test_requests_and_methods_that_only_one_has_are_left_out_and_told(sets):
    write(sets[1] / "popd", "judged.json", judged(8, count=30))
    (sets[0] / "vanilla").rename(sets[0] / "gd")
    found, remarks = sides(*sets)
    assert found["asr_gen"].startswith("-40.0 (") and found["asr_gen"].endswith("; 30 of 40 answers")
    assert remarks == ["gd is in one set alone", "vanilla is in one set alone"] or remarks == [
        "GD is in one set alone", "vanilla is in one set alone"
    ]  # fmt: skip


def test_verdicts_on_the_training_questions_are_read_where_the_summary_names_them(sets):
    for folder, unsafe in zip(sets, (30, 10), strict=True):
        write(folder / "popd", "v.json", judged(unsafe))
        write(
            folder / "popd", "summary_train.json", {"split": "train", "asr": metric(unsafe / 40), "verdicts": "v.json"}
        )
    assert sides(*sets)[0]["asr_eff"].startswith("-50.0 (")


def test_seeds_are_paired_with_their_like(tmp_path):
    one, other = seeded_results(tmp_path / "A"), seeded_results(tmp_path / "B", seeds=(1, 2, 3))
    for folder, unsafe in ((one, (30, 20, 20)), (other, (10, 12, 0))):
        for path, count in zip(sorted(folder.glob("seed*/popd")), unsafe, strict=True):
            write(path, "v.json", judged(count))
            change(path, "summary_val.json", verdicts="v.json", asr=metric(count / 40, n=40))
    assert sides(one, other)[0]["asr_gen"].startswith("-22.5 ("), "of seeds 1 and 2: -25 and -20"
