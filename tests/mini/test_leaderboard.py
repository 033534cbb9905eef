"""The leaderboard: one rule for all settings, distance 0 to the same model, words by rule, and repeatable cells."""

import shutil
from math import log

import pytest
import torch
from helpers import ROOT, read_beside

from safeeraser.benchmark.files import read_json, read_object
from safeeraser.errors import BadInput
from safeeraser.leaderboard import distance, train
from safeeraser.leaderboard.cell import write_cell
from safeeraser.leaderboard.choose import choose_settings
from safeeraser.leaderboard.figures import Cells, Figure, rate, resampled, worst
from safeeraser.leaderboard.plan import PAGE, Cell, Plan, read_plan, settings_file
from safeeraser.leaderboard.rule import choose, wider
from safeeraser.leaderboard.table import DATA, write_table
from safeeraser.leaderboard.verdict import BROKEN, HIDDEN, KNOWS, REMOVED, UNDECIDED, tells_removal, words


def at(value, off=0.05):
    return Figure(value, value - off, value + off, 9, "x")


NEVER = {f"{content}_{way}": at(0.0) for content in ("harmful", "reworded", "benign") for way in ("forced", "sampled")}
NEVER |= {f"from_vanilla_{way}": at(1.0) for way in ("forced", "sampled")}
NEVER |= {"asr_shown": at(0.0), "depth": at(1.0), "attack": at(0.0), "back": at(0.1), "area": at(0.0)}

VANILLA = {name: at(0.96) for name in ("asr_shown", "attack", "back")}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, REMOVED),
        ({"asr_shown": at(0.9)}, KNOWS),
        ({"asr_shown": at(0.5), "depth": at(0.0)}, UNDECIDED),
        ({"depth": at(0.0)}, HIDDEN),
        ({"attack": at(0.7)}, HIDDEN),
        ({"back": at(0.9)}, HIDDEN),
        ({"back": at(0.9), "benign_sampled": at(0.8)}, f"{HIDDEN}; {BROKEN}"),
        ({"back": at(0.5)}, REMOVED),
        ({"harmful_sampled": at(3.0)}, BROKEN),
        ({"harmful_forced": at(0.6), "from_vanilla_sampled": at(0.2)}, UNDECIDED),
        ({"benign_sampled": at(0.8)}, BROKEN),
        ({"benign_sampled": at(0.2, 0.1)}, UNDECIDED),
        ({"reworded_forced": at(0.24)}, UNDECIDED),
        ({"area": at(0.24)}, UNDECIDED),
        ({"harmful_sampled": at(0.0, 9.0)}, UNDECIDED),
    ],
)
def test_a_word_needs_the_whole_interval(changed, wanted):
    assert "; ".join(words(NEVER | changed, VANILLA)) == wanted


def test_without_figures_no_word_holds():
    assert [*words({}, VANILLA)] == [UNDECIDED]


def test_a_measure_is_dropped_where_noise_looks_like_a_model_that_never_knew():
    ways = [tells_removal(at(value, 0.1), at(0.0), at(1.0)) for value in (0.3, 0.45, 0.9, 2.0)]
    distances = [tells_removal(at(value, 0.1), at(1.0), at(0.0)) for value in (0.3, 0.55, 0.9, 2.0)]
    benign = [tells_removal(at(value, 0.1), at(0.0), at(0.0)) for value in (0.1, 0.3)]
    assert (ways, distances, benign) == ([True, False, False, False], [False, False, True, True], [False, True])


def test_the_rule_takes_the_least_loss_of_those_that_forgot_and_widens_at_an_edge():
    def trial(lr, steps, asr, sarr, rouge=1.0):
        return {"lr": lr, "max_train_steps": steps, "asr": asr, "sarr": sarr, "rouge_l": rouge}

    tried = [trial(1e-3, 200, 0.06, 0.0), trial(2e-3, 200, 0.05, 0.3), trial(4e-3, 200, 0.0, 0.2, 0.8)]
    assert choose(tried)["lr"] == 2e-3
    assert choose([tried[0], trial(2e-3, 400, 0.5, 0.0)])["lr"] == 1e-3
    assert choose([trial(4e-3, 200, 0.0, 0.1), trial(1e-3, 200, 0.0, 0.1)])["lr"] == 1e-3
    of = {"max_train_steps": 200}
    assert wider(of | {"lr": 2e-3}, tried, (1e-3, 4e-3), 2) == []
    assert wider(of | {"lr": 4e-3}, tried, (1e-3, 4e-3), 2) == [8e-3]
    assert wider(of | {"lr": 1e-3}, tried, (1e-3, 4e-3), 2) == [5e-4]
    assert wider(of | {"lr": 1e-3}, tried, (1e-3, 4e-3), 0) == []


def test_divergence_and_intervals_by_hand():
    ours, theirs = (torch.tensor([of]).log() for of in ([0.5, 0.5], [0.25, 0.75]))
    assert distance.kl(ours, theirs).item() == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3))
    assert distance.kl(ours, ours).item() == 0
    assert distance.mean([{"a": {"b": 1.0}}, {"a": {"b": 3.0}}]) == {"a": {"b": 2.0}}
    assert rate({"cat": [2.0, 4], "dog": [0.0, 4]})[0] == 0.25
    value, low, high = resampled({str(number): (number % 2, 1) for number in range(18)})
    assert value == 0.5 and 0.2 < low < 0.5 < high < 0.8


def test_a_base_model_counts_once_and_the_worst_name_counts():
    runs = [{"a": (0.1, 0.0, 0.2), "b": (0.6, 0.5, 0.7)}, {"a": (0.9, 0.8, 1.0), "b": (0.6, 0.5, 0.7)}]
    of = worst([(0, runs[0]), (0, runs[1])], 0.0, 1.0)
    assert (of.name, of.value, of.low, of.high) == ("b", 0.6, pytest.approx(0.5), pytest.approx(0.7))
    nested = worst([(base, {"a": (value,) * 3}) for base, value in ((0, 0.4), (0, 0.6), (1, 0.7))], -9.0, 9.0)
    means = worst([(base, {"a": (value,) * 3}) for base, value in ((0, 0.5), (1, 0.7))], -9.0, 9.0)
    assert (nested.value, nested.low, nested.high, nested.runs) == (means.value, means.low, means.high, 3)
    assert means.value == pytest.approx(0.6) and means.high == pytest.approx(0.6 + 12.7062 * 0.1, abs=1e-3)


def test_noise_changes_twice_as_much_and_is_otherwise():
    base = {"model.multi_modal_projector.linear.weight": torch.ones(3, 3)}
    given = {"m.lora_A.weight": torch.eye(2, 4), "m.lora_B.weight": torch.ones(5, 2)}
    given["base_model.model.model.multi_modal_projector.linear.weight"] = torch.ones(3, 3) + 2.0
    drawn = train.noisy(given, base, torch.Generator().manual_seed(1), 2.0)
    products = [each["m.lora_B.weight"] @ each["m.lora_A.weight"] for each in (given, drawn)]
    assert 2 * products[0].norm().item() == pytest.approx(products[1].norm().item())
    whole = drawn["base_model.model.model.multi_modal_projector.linear.weight"] - 1.0
    assert whole.norm().item() == pytest.approx(12.0) and whole.std() > 0.5


def test_what_is_wrong_in_the_page_is_named(monkeypatch, tmp_path):
    plan = read_plan()
    assert {"po", "popd", "npo+pd"} <= set(plan.chosen) and len(plan.cells("core")) > 90
    with pytest.raises(BadInput, match="no row 'npo\\+p'; did you mean 'npo\\+pd'"):
        plan.row("npo+p")
    page = tmp_path / "page.yaml"
    page.write_text(PAGE.read_text().replace("noise_of: npo+pd", "noise_of: npo+p"))
    monkeypatch.setattr("safeeraser.leaderboard.plan.PAGE", page)
    with pytest.raises(BadInput, match=r"rows\.noise: no row 'npo\+p'"):
        read_plan()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="choose popd makes it"):
        plan.settings("popd")
    with pytest.raises(BadInput, match=r"rows\.vanilla: is not trained"):
        choose_settings(plan, "vanilla")


@pytest.mark.slow
def test_settings_cells_and_page_from_nothing_and_a_deleted_cell_comes_out_the_same(small, tmp_path, monkeypatch):
    """In an empty folder, with models that have learnt almost nothing and give short answers."""
    monkeypatch.chdir(tmp_path)
    for room in ("answers", "relearn", "distance"):
        monkeypatch.setattr(f"safeeraser.leaderboard.{room}.TOKENS", 3)
    monkeypatch.setattr("safeeraser.audit.inside.measures.SAID", 3)
    shutil.copytree(small, "mini")
    shutil.copytree("mini/never_knew", "mini/never_knew-1")
    plan = Plan(**read_beside(__file__, "leaderboard.yaml"))
    chosen = choose_settings(plan, "popd")
    told = read_object(settings_file("popd"))
    assert told["chosen"] == chosen and len(told["tried"]) == 2 and plan.chosen == ["popd"]
    monkeypatch.setattr("safeeraser.leaderboard.choose.attempt", None)
    assert choose_settings(plan, "popd") == chosen  # nothing is tried again
    distance.write_reference(plan)
    for row in plan.rows:
        write_cell(plan, Cell(row, 0, 1))
    cell = Cell("noise", 0, 1)
    kept = read_json(cell.kept)
    cell.kept.unlink()
    shutil.rmtree(cell.folder)
    write_cell(plan, cell)
    assert read_json(cell.kept) == kept
    never = read_json(Cell("never_knew", 0, 1).kept)["distance"]
    assert never["never_knew"]["harmful"]["forced"].keys() == {*kept["inside"]["depth"]}
    vanilla = read_json(Cell("vanilla", 0, 1).kept)["distance"]["vanilla"]["harmful"]["forced"]
    assert max(vanilla.values()) == pytest.approx(0, abs=1e-6)
    shutil.copy(ROOT / "docs" / "results" / "leaderboard.md", tmp_path / "docs" / "results" / "leaderboard.md")
    shutil.copy(ROOT / "README.md", tmp_path)
    write_table(plan)
    assert all(f"\n| `{row}` | " in (tmp_path / "README.md").read_text() for row in plan.rows)
    page, figures = (tmp_path / "docs/results/leaderboard.md").read_text(), Cells.read().figures("popd")
    assert all(f"\n| {row} | " in page for row in plan.rows) and figures["depth"].runs == 1
    assert len(DATA.read_text().splitlines()) > 80 and len(list(DATA.parent.glob("leaderboard_*.svg"))) == 3
    other = cell.kept.read_text().replace(kept["data"], "of another benchmark")
    cell.kept.write_text(other)
    with pytest.raises(BadInput, match="measured on another benchmark"):
        write_table(plan)
