"""Probes: what they count, when they ask, that they change nothing, and that they keep no text."""

import json

import pytest
from helpers import MODEL, TRAIN, VAL, read_lines, run, settings, trained

from safeeraser.unlearn.probe import measure, probe_items

pytestmark = pytest.mark.slow

GIVEN = (f"model_path={MODEL}", f"data_path={TRAIN}", f"probe.data_path={VAL}", "dtype=float32", "workers=0")
GIVEN += ("gradient_accumulation_steps=2", "lr=0.01", "max_train_steps=5", "save_steps=2", "probe.max_new_tokens=8")


def forget(folder, *more):
    return trained(folder, *GIVEN, *more)


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    return forget(tmp_path_factory.mktemp("runs") / "probed", "probe_every=2", "probe.prompts=3")


def test_what_is_counted():
    answers = ["I'm sorry, but I can't help with that.", "the the the the", "You can use the ladder.", ""]
    assert measure(answers) == {"refusal": 0.25, "degenerate": 0.5, "length": (8 + 4 + 5 + 0) / 4}


def test_the_questions_are_spread_over_the_held_out_file():
    items = probe_items(settings(f"probe.data_path={VAL}", "probe.prompts=4"))
    assert set(items) == {"forget", "decoupled", "retain"}
    assert all(len(value) == 4 for value in items.values())
    records = {item.where.partition("]")[0] for item in items["forget"]}
    assert len(records) == min(4, len(json.loads(VAL.read_text())))


def test_asked_before_between_and_after(probed):
    rows = read_lines(probed / "probe.jsonl")
    assert [row["step"] for row in rows] == [0, 2, 4, 5]
    for row in rows:
        assert set(row) == {"step", "forget", "decoupled", "retain"}
        assert all(set(row[view]) == {"refusal", "degenerate", "length"} for view in row if view != "step")


def test_probing_changes_nothing_else(probed, tmp_path):
    plain = forget(tmp_path / "plain")
    assert read_lines(plain / "train_log.jsonl") == read_lines(probed / "train_log.jsonl")
    name = "adapter_model.safetensors"
    assert (plain / name).read_bytes() == (probed / name).read_bytes()
    assert not (plain / "probe.jsonl").exists()


def test_of_a_mean_of_weights_the_last_row_is_the_means(tmp_path):
    """Whether or not the last step is one that is asked after."""
    given = ("step=average", "step.last=1", "probe.prompts=3", "max_train_steps=4")
    rows = [read_lines(forget(tmp_path / f"{n}", *given, f"probe_every={n}") / "probe.jsonl") for n in (4, 3)]
    assert [[row["step"] for row in each] for each in rows] == [[0, 4], [0, 3, 4]]
    last = read_lines(forget(tmp_path / "plain", *given[2:], "probe_every=4") / "probe.jsonl")[-1]
    assert rows[0][-1] == rows[1][-1] != last


def test_a_resumed_run_has_the_same_curve(probed, tmp_path, monkeypatch):
    """Broken off in step 5, after the probe of step 4 and its checkpoint."""
    from safeeraser.unlearn.trainer import UnlearnTrainer

    folder, compute = tmp_path / "resumed", UnlearnTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 4:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    more = ("probe_every=2", "probe.prompts=3")
    with monkeypatch.context() as patched:
        patched.setattr(UnlearnTrainer, "compute_loss", interrupted)
        done = run("forget", *GIVEN, f"save_dir={folder}", *more)
    assert done.returncode == 130
    with open(folder / "probe.jsonl", "a") as handle:
        handle.write('{"step": 5, "forg')  # a kill may cut a line
    forget(folder, *more, "resume_from_checkpoint=auto")
    assert read_lines(folder / "probe.jsonl") == read_lines(probed / "probe.jsonl")
    sittings = json.loads((folder / "run.json").read_text())["sittings"]
    assert [(sitting["from_step"], sitting.get("to_step")) for sitting in sittings] == [(0, None), (4, 5)]


def test_held_out_data_that_is_not_there(tmp_path):
    done = run("forget", *GIVEN, f"save_dir={tmp_path / 'run'}", "probe_every=1", "probe.data_path=no/such.json")
    assert done.returncode == 2 and "error: probe.data_path: no/such.json: no such file" in done.stderr
    assert not (tmp_path / "run").exists()
