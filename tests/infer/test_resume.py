"""A run that was stopped resumes: nothing is lost, nothing asked twice, and other settings are refused by name."""

import json
import os
import resource
import signal

import psutil
import pytest
from helpers import CHECKPOINT, MODEL, RECORDED, TRAIN, VAL, fork, kill_once, lines, record, run, until, write_dataset

from safeeraser import infer
from safeeraser.benchmark.files import read_json as read
from safeeraser.errors import BadInput
from safeeraser.infer.options import arguments, options_of
from safeeraser.infer.predictions import Partial, nulls, settings_of

SETTINGS = {"model_path": "m", "top_p": 0.9}


def keep(folder, *pairs, process=0, settings=SETTINGS, **more):
    """Add responses to a run's partial file, like a process that ends after that."""
    partial = Partial(folder / "out.json", settings, process, **more)
    partial.add(pairs)
    partial.close()
    return partial


def test_the_partial_files_of_all_processes_are_read_and_removed_together(tmp_path):
    assert keep(tmp_path).done == {} and not list(tmp_path.iterdir()), "no response, no file"
    keep(tmp_path, ("a", "one\nline"), ("b", "two\u2028ü\x85🙂"))
    assert keep(tmp_path, ("c", ""), process=1).path.name == "out.json.partial.1.jsonl"
    (tmp_path / "out.json.partial.2.jsonl").touch()
    (tmp_path / "other.json.partial.jsonl").write_text("not ours")
    again = keep(tmp_path, ("d", "four"))
    assert again.done == {"a": "one\nline", "b": "two\u2028ü\x85🙂", "c": "", "d": "four"}
    lines = [json.loads(line) for line in again.path.read_text("utf-8").split("\n")[:-1]]
    assert lines[0] == {"settings": SETTINGS} and [line["key"] for line in lines[1:]] == ["a", "b", "d"]
    again.remove()
    assert [path.name for path in tmp_path.iterdir()] == ["other.json.partial.jsonl"]


@pytest.mark.slow
def test_a_run_that_found_its_batch_size_resumes_with_it(tmp_path, monkeypatch):
    """It is the last batch size or, of several processes, the smallest last one. A given size takes precedence."""
    monkeypatch.chdir(RECORDED)
    begun = {"settings": settings_of(options_of(arguments().keywords(GIVEN | {"output_file": tmp_path})))}
    for process, sizes in ((0, (9, 7)), (1, (11,))):
        said = [{"key": f"{process}/{size}", "response": "", "batch_size": size} for size in sizes]
        text = "".join(json.dumps(line) + "\n" for line in (begun, *said))
        for name in ("auto", "given"):
            (tmp_path / f"{name}.json.partial{f'.{process}' if process else ''}.jsonl").write_text(text)
    infer(**GIVEN, output_file=tmp_path / "auto.json", batch_size="auto")
    infer(**GIVEN, output_file=tmp_path / "given.json", batch_size=4)
    assert read(tmp_path / "auto.run.json")["batch_sizes"] == [7, 9, 11]
    assert read(tmp_path / "given.run.json")["batch_sizes"] == [4, 7, 9, 11]


@pytest.mark.parametrize("room", [0, 30, 120])
def test_a_full_disk_loses_nothing_that_was_kept(tmp_path, room):
    path = keep(tmp_path, ("a", "one")).path
    kept, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + room, limits[1]))
    try:
        with pytest.raises(BadInput, match=r"out\.json\.partial\.jsonl: cannot be written \(File too large\)"):
            keep(tmp_path, ("b", "two " * 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.stat().st_size == len(kept) + room
    assert keep(tmp_path, ("b", "two")).done == {"a": "one", "b": "two"}


def test_two_runs_on_one_output_are_refused(tmp_path):
    slow, at_work = (Partial(tmp_path / "out.json", SETTINGS) for _ in range(2))
    at_work.add([("a", "one")])
    with pytest.raises(BadInput, match="another run is at work there"):
        Partial(tmp_path / "out.json", SETTINGS)
    at_work.close()
    with pytest.raises(BadInput, match="another run has been at work there since"):
        slow.add([("b", "two")])
    assert Partial(tmp_path / "out.json", SETTINGS).done == {"a": "one"}


def test_other_settings_are_refused_by_name_or_start_anew(tmp_path):
    path = keep(tmp_path, ("a", "one")).path
    before = path.read_bytes()
    with pytest.raises(BadInput, match=r"begun with top_p=0.9, now top_p=0.8; .*--overwrite"):
        Partial(tmp_path / "out.json", SETTINGS | {"top_p": 0.8})
    assert keep(tmp_path, settings=SETTINGS | {"base": "x"}).done == {"a": "one"}, "a base unknown then is no other"
    assert path.read_bytes() == before
    other = SETTINGS | {"top_p": 0.8}
    assert keep(tmp_path, ("b", "two"), settings=other, replace=True).done == {"b": "two"}
    assert keep(tmp_path, settings=other, replace=True).done == {"b": "two"}, "the same settings go on"


GIVEN = {"model_path": MODEL, "eval_file": VAL, "dtype": "float32", "max_new_tokens": 3, "categories": ["Sex"]}


@pytest.mark.slow
def test_a_finished_run_is_passed_over_and_any_other_setting_named(tmp_path, monkeypatch):
    monkeypatch.chdir(RECORDED)
    out, begun = tmp_path / "p.json", tmp_path / "q.json.partial.jsonl"
    infer(**GIVEN, output_file=out)
    text, finished = out.read_bytes(), read(tmp_path / "p.run.json")["settings"]
    out.write_bytes(b"marked")
    assert infer(**GIVEN, output_file=out).wanted == 20 and out.read_bytes() == b"marked"
    kept = {"key": "3/UnharmPair_image1/Prediction", "response": "as it was"}
    begun.write_text("".join(json.dumps(line) + "\n" for line in ({"settings": finished}, kept)))
    others = {"top_p": 0.5, "seed": 1, "greedy": True, "max_new_tokens": 5, "limit": 1, "attack": "blur"}
    others |= {"temperature": 0.5, "quantization": "int4", "only": ["retain"], "lora_alpha": 16, "dtype": "bfloat16"}
    others |= {"categories": ["Sex", "Weapon"], "checkpoint_path": CHECKPOINT, "eval_file": TRAIN}
    for key, value in others.items():
        for file, said in (("p.json", "exists, made with"), ("q.json", "begun with")):
            with pytest.raises(BadInput, match=f"{said} {key.removesuffix('_path')}="):
                infer(**GIVEN | {key: value}, output_file=tmp_path / file)
    # Saved responses go into the output, and the others are as in an undisturbed run.
    infer(**GIVEN, output_file=tmp_path / "q.json", batch_size=3)
    expected = json.loads(text)
    expected[3]["UnharmPair_image1"]["Prediction"] = "as it was"
    assert read(tmp_path / "q.json") == expected and not begun.exists()
    (tmp_path / "p.run.json").unlink()
    with pytest.raises(BadInput, match=r"p\.json: exists; name another, or replace it with --overwrite"):
        infer(**GIVEN, output_file=out)
    infer(**GIVEN, output_file=out, overwrite=True)
    assert out.read_bytes() == text


def test_pictures_that_cannot_be_read_leave_out_their_responses_until_they_are_mended(tmp_path, serve, caplog):
    data, out = write_dataset(tmp_path / "data", record(0), record(1, "Sex")), tmp_path / "p.json"
    torn, lost = (data.parent / "pdset" / name for name in ("Sex/1.jpg", "Weapon/0.jpg"))
    sound = [path.read_bytes() for path in (torn, lost)]
    torn.write_bytes(sound[0][:200])
    lost.unlink()
    server = serve(lambda number, _: (200, {}, f"answer {number}"))
    given = ("--backend", "openai", "--base_url", server.url, "--model_path", "m", "--eval_file", data)
    for _ in range(2):  # the second run asks nothing again
        done = run("ckpt_infer", *given, "--output_file", out)
        assert done.returncode == 3
        assert done.stderr.strip().splitlines()[-3:-1] == [
            "record 0: 4 responses missing: pdset/Weapon/0.jpg: picture not found",
            f"record 1: 4 responses missing: {torn}: picture cannot be decoded (OSError)",
        ]
        assert "error: 8 of 40 responses are missing" in done.stderr and nulls(read(out)) == 8
        missing = [f"{number}/unsafe_pairs/{n}/sd_response" for number in (0, 1) for n in range(4)]
        assert sorted(read(out.with_suffix(".run.json"))["missing"]) == missing
        assert len(server.requests) == 32
    for path, content in zip((torn, lost), sound, strict=True):
        path.write_bytes(content)
    caplog.set_level("INFO")
    assert run("ckpt_infer", *given, "--output_file", out).returncode == 0
    assert "resuming: 32 of 40 responses are there" in caplog.messages and len(server.requests) == 40
    assert nulls(read(out)) == 0 and not list(tmp_path.glob("*.partial*"))


@pytest.mark.slow
def test_a_run_that_was_killed_resumes_to_the_output_of_an_undisturbed_one(tmp_path, caplog):
    given = ("--model_path", MODEL, "--eval_file", VAL, "--dtype", "float32", "--max_new_tokens", 12)
    given += ("--checkpoint_path", CHECKPOINT)
    out, whole = tmp_path / "p.json", tmp_path / "whole.json"
    partial = tmp_path / "p.json.partial.jsonl"
    assert run("ckpt_infer", *given, "--output_file", whole).returncode == 0
    kill_once(lambda: lines(partial) >= 8, fork("ckpt_infer", *given, "--output_file", out, "--batch_size", 1))
    kept = lines(partial) - 1
    assert 7 <= kept < 120 and not out.exists()
    with open(partial, "ab") as handle:
        handle.write(b'{"key": "0/unsafe_pairs/0/sd_resp')
    caplog.set_level("INFO")
    assert run("ckpt_infer", *given, "--output_file", out, "--batch_size", 5).returncode == 0
    assert f"resuming: {kept} of 120 responses are there" in caplog.messages
    assert out.read_bytes() == whole.read_bytes() and not partial.exists()


@pytest.mark.slow
@pytest.mark.parametrize("stopped", ["worker", "command"])
def test_processes_that_prepare_pictures_end_with_the_command_or_without_harm(tmp_path, stopped):
    data = write_dataset(tmp_path / "data", *(record(number) for number in range(120)))
    given = ("--model_path", MODEL, "--eval_file", data, "--dtype", "float32", "--max_new_tokens", 2)
    given += ("--only", "decoupled,retain", "--batch_size", 4)
    out, whole, log = (tmp_path / name for name in ("p.json", "whole.json", "log"))
    process = fork("ckpt_infer", *given, "--output_file", out, log=log)
    until(lambda: lines(tmp_path / "p.json.partial.jsonl") > 40, process.is_alive)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    if stopped == "worker":
        workers[0].kill()
    else:
        os.kill(process.pid, signal.SIGINT)
    process.join()
    assert not psutil.wait_procs(workers, 10)[1]
    if stopped == "worker":
        assert process.exitcode == 0 and "continuing without processes that prepare pictures" in log.read_text()
    else:
        assert process.exitcode == 130 and "Traceback" not in log.read_text()
    assert run("ckpt_infer", *given, "--output_file", out, "--workers", "none").returncode == 0
    assert run("ckpt_infer", *given, "--output_file", whole, "--workers", "none").returncode == 0
    assert out.read_bytes() == whole.read_bytes()
