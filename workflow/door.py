"""The paper's table from data to report: each method unlearned, answered, judged, and set beside the published figures.

  python workflow/door.py --model llava-1.5-7b --methods "po popd" --seeds "233 1 2" --dry_run
  MODEL=mini bash scripts/reproduce.bash            (the same, with what it needs installed first)

Checks all that can be wrong, then starts Snakemake on workflow/Snakefile; words behind `--` are Snakemake's own.
Stopped at any moment, the same command goes on. Exit code 1: a step failed, as listed; 3: something is lacking.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
from check import Found, look, words_amiss
from estimate import show_cost
from plan import LACKING, OPTIONAL, ROOT, Plan, read_plan
from step import visible_gpus

from safeeraser.arguments import Arguments, count_or, without_credentials
from safeeraser.benchmark.family import families
from safeeraser.benchmark.files import held, make_room_for, read_object, write_json
from safeeraser.benchmark.pages import read_page
from safeeraser.errors import BadInput, Interrupted, command, nearest

PAGES, PROFILES, SNAKEFILE = (ROOT / "workflow" / name for name in ("config", "profiles", "Snakefile"))
# The commands that options can be handed on to.
PARTS = {"build": "what makes the data (mini: safeeraser.mini.build)", "forget": "forget.py", "infer": "ckpt_infer.py"}
PARTS |= {"score": "eval_all.py", "specificity": "the step specificity", "audit": "audit.py"}
LOOK, PATIENCE = 0.2, 60.0  # seconds between looks at who is at work; that it has to end once it is told to


def arguments() -> Arguments:
    """The command line."""
    parser = Arguments(prog="python workflow/door.py", description=__doc__)
    add = parser.add_argument
    add("--model", default="llava-1.5-7b", help="mini, or a page of config/model_family/ (default: %(default)s)")
    add("--methods", help="by name, vanilla among them (default: all nine; mini-small: five)")
    add("--seeds", help="of unlearning and of the responses (default: 233)")
    add("--judge", metavar="JUDGE", help="as eval_all.py --judge takes it (default: openai; mini: truth)")
    add("--out", metavar="FOLDER", help="where everything goes (default: results/reproduce/MODEL)")
    add("--jobs", type=count_or("auto"), metavar="N", help="steps at a time on one machine (default: 1; mini: cores)")
    add("--accelerate_config", metavar="FILE", help="engine of unlearning and inference; none: one process")
    add("--specificity", action="store_true", help="measure Specificity too (mini: always)")
    add("--audit", action="store_true", help="audit each adapter too")
    add("--published", action="store_true", help="set the published figures beside the table")
    add("--data", metavar="FOLDER", help="the benchmark (default: dataset; mini: dataset/mini)")
    add("--model_path", help="a folder, or a name on the hub (default: as the page of the model says)")
    add("--settings", type=Path, metavar="FILE", help="in place of the config file in workflow/config/")
    add("--profile", help="laptop, gpus, slurm, or a folder of your own (default: by the GPUs that are here)")
    for part, what in PARTS.items():
        add(f"--{part}_options", action="append", default=[], metavar="WORDS", help=f"further options of {what}")
    add("--retry", action="store_true", help="also steps that ended, but lacked something (exit code 3)")
    group = parser.add_argument_group("instead of working").add_mutually_exclusive_group()
    group.add_argument("--dry_run", action="store_true", help="check, print the plan, measure a minute, and stop")
    group.add_argument("--status", action="store_true", help="print what is done, and stop")
    return parser


@command
def main() -> int:
    """Read the command line; plan, tell, or work."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    given, own = arguments().parse_args(words[:cut]), words[cut + 1 :]
    os.chdir(ROOT)
    door = Door(given, own)
    if given.status:
        return door.status()
    return door.dry_run() if given.dry_run else door.work()


def plan_of(given: Namespace) -> Plan:
    """What was asked. Raises `BadInput` where it cannot be meant."""
    file = given.settings or PAGES / f"{given.model}.yaml"
    page = read_page(file if given.settings or file.is_file() else file.with_name("real.yaml"), PAGES)
    page["model_family"] = page.get("model_family") or given.model
    page["model_path"] = model_path(given, page["model_family"])
    for name in ("methods", "seeds", "judge", "data", "jobs"):
        page |= {name: value} if (value := getattr(given, name)) else {}
    for part in PARTS:
        texts = [page.get(key := f"{part}_options") or "", *getattr(given, key)]
        page |= {key: " ".join(filter(None, texts))}
        if any(word.partition("=")[0] == "--api_key" for word in shlex.split(page[key])):
            raise BadInput("--api_key: not here, where all can see it; set OPENAI_API_KEY instead")
    if (engine := given.accelerate_config) and engine != "none" and not Path(engine).is_file():
        raise BadInput(f"--accelerate_config {engine}: no such file")
    page |= {"engine": None if engine == "none" else engine} if engine else {}
    page["checkpoints"] = any("save_steps=" in text for text in given.forget_options)
    steps = [*(page.get("steps") or ()), *(step for step in OPTIONAL if getattr(given, step))]
    page |= {"steps": steps, "published": given.published, "out": given.out or f"results/reproduce/{given.model}"}
    environment = page.get("environment") or {}
    own = {name: text for name, text in os.environ.items() if name in {*environment, "OMP_NUM_THREADS"}}
    page["environment"] = environment | own
    plan = read_plan(page, str(file))
    for word in (plan.judge, *plan.score_options.split(), *plan.audit_options.split()):
        if "://" in word and without_credentials(word) != word:
            raise BadInput("--judge: a name, password or key in an address would stand in files; set OPENAI_API_KEY")
    return plan


def model_path(given: Namespace, name: str) -> str:
    """What was said, else what the model's page in config/model_family/ says."""
    known = families()
    if name not in known:
        models = {page for page, family in known.items() if family.model_path}
        own = {path.stem for path in PAGES.glob("*.yaml")}
        raise BadInput(f"--model {name}: no such model; {nearest(name, models | own - {'real'})}")
    if path := given.model_path or known[name].model_path:
        return path
    sizes = ", ".join(page for page, of in known.items() if of.model_type == known[name].model_type and of.model_path)
    raise BadInput(f"--model {name}: a family, none of its models; say --model_path, or one of {sizes}")


class Door:
    """What is asked, and Snakemake's place: `words` are its own, behind `--`."""

    def __init__(self, given: Namespace, words: list[str]) -> None:
        plan, self.words, self.retry = plan_of(given), words, given.retry
        self.out = place_of(Path(str(plan.out)))
        self.cards = len(visible_gpus())
        self.jobs = plan.jobs or os.cpu_count() or 1
        name = given.profile or ("gpus" if self.cards else "laptop")
        self.profile = PROFILES / name if (PROFILES / name).is_dir() else Path(name)
        if not self.profile.is_dir():
            raise BadInput(f"--profile {name}: no such folder; {nearest(name, [p.name for p in PROFILES.iterdir()])}")
        self.limits, share = [], plan.processes
        if name in ("laptop", "gpus"):  # one machine, whose GPUs the steps share
            self.limits = [f"--cores={self.jobs}", *([f"--resources=gpu={self.cards}"] if self.cards else [])]
            share = max(self.cards // self.jobs, plan.processes) if self.cards else 0
        else:
            self.cards = 0
        self.plan = plan.model_copy(update={"gpu": share})
        os.environ.update(plan.environment)  # of what is measured and checked here

    def snakemake(self, *words: str, asks: bool = False) -> int:
        """Run Snakemake. A signal ends it and what it has started, and is raised.

        asks: it is only to tell something, while another is at work or nothing is there yet.
        """
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) if asks and not self.out.is_dir() else self.out.absolute()
            config = Path(scratch, "config.json") if asks else folder / "steps" / "config.json"
            write_json(config, self.plan.model_dump(mode="json"))
            call = ["python", "-m", "snakemake", f"--snakefile={SNAKEFILE}", f"--configfile={config}"]
            call += [f"--directory={folder}", f"--workflow-profile={self.profile}", *self.limits, *words]
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, heed)
            process = subprocess.Popen(call, stdin=subprocess.DEVNULL, start_new_session=True)
            try:
                return process.wait()
            except Interrupted:
                end(process, self.out)
                raise

    def look(self) -> Found:
        """Find everything that is wrong."""
        print("looking at options, data, memory and disk ...", flush=True)
        return look(self.plan, self.cards)

    def status(self) -> int:
        """Print what is done."""
        code = self.snakemake("--summary", *self.words, asks=True)
        print("\n".join(self.shortcomings()))
        return code

    def dry_run(self) -> int:
        """Print what would be done, and what it takes; what is wrong ends it with exit code 2."""
        unbuilt = self.plan.build and not Path(self.plan.data).is_dir()
        found = Found(words_amiss(self.plan, with_data=False)) if unbuilt else self.look()
        code = refuse(found.problems)
        if found.records or unbuilt:
            self.snakemake("--quiet", "rules", "host", "reason", "--dry-run", *self.words, asks=True)
            show_cost(self.plan, found, min(self.jobs, len(self.plan.runs)))
        if unbuilt:
            print(f"{self.plan.data}: is made by the first step")
        return code

    def work(self) -> int:
        """Do what is left, and make the report. Returns the exit code."""
        data, steps = Path(self.plan.data), self.out / "steps"
        build = steps / "data" / "build.done"
        unbuilt = self.plan.build and not (build.is_file() and data.is_dir())
        with held(steps, str(self.out)) if steps.is_dir() else nullcontext():  # a second command is refused at once
            found = words_amiss(self.plan, with_data=data.is_dir()) if unbuilt else self.look().problems
        if code := refuse(found):
            return code
        make_room_for(steps / "config.json")
        with held(steps, str(self.out)):
            take_over(self.out)
            for mark in self.marks("done"):
                lacking = self.retry and read_object(mark)["exit_code"] == LACKING
                if lacking or not (self.out / mark.parent.name).is_dir():
                    mark.unlink()
            if unbuilt:
                build.unlink(missing_ok=True)
                if self.snakemake("steps/data/build.done"):
                    raise BadInput(f"{data}: could not be made: {last_words(build.with_suffix('.log'))}")
                if code := refuse(self.look().problems):
                    return code
            code = self.snakemake(*self.words)
            if code and [*self.out.glob("*/summary_*.json")]:  # a failed step keeps no other run from the report
                subprocess.run(self.plan.report(str(self.out)))
        for line in self.shortcomings():
            print(f"error: {line}", file=sys.stderr)
        marks = [read_object(mark)["exit_code"] for mark in self.marks("done")]
        return 1 if code else LACKING if any(marks) else 0

    def marks(self, how: str) -> list[Path]:
        """The marks of steps that are asked for and ended so."""
        names = [(run.name, step) for run in self.plan.runs.values() for step in self.plan.commands(run)]
        return [file for run, step in names if (file := self.out / "steps" / run / f"{step}.{how}").is_file()]

    def shortcomings(self) -> list[str]:
        """Steps that failed, or lack something, each with its log and what that says last."""
        failed = [(mark, "failed") for mark in self.marks("failed")]
        lacking = [(mark, "lacks something") for mark in self.marks("done") if read_object(mark)["exit_code"]]
        logs = [(mark.with_suffix(".log"), what) for mark, what in failed + lacking]
        return [f"{log.parent.name}: {log.stem} {what}: {last_words(log)} (log: {log})" for log, what in logs]


def place_of(out: Path) -> Path:
    """`out`, if it is a folder that can be written to, or can be made."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise BadInput(f"--out {out}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadInput(f"--out {out}: {there} cannot be written to")
    return out


def refuse(problems: Sequence[str]) -> int:
    """Tell what is wrong, a line each; 2 if anything is."""
    for problem in problems:
        print("error: " + " ".join(problem.split()), file=sys.stderr)
    return 2 if problems else 0


def last_words(log: Path) -> str:
    """The last error in a log, else its last line."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["it said nothing"])[-1].strip()[:300].removeprefix("error: ")


def at_work(out: Path) -> list[psutil.Process]:
    """Snakemake, and the steps that it has started on this machine, on results in `out`."""
    lines = {each: " ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])}
    ours = [each for each, line in lines.items() if "workflow/step.py " in line or "-m snakemake " in line]
    return [each for each in ours if f"{out.absolute()}/steps/" in lines[each]]


def take_over(out: Path) -> None:
    """Wait for what a killed command has left at work. Snakemake's lock, which it left too, is then nobody's.

    Raises:
        BadInput: the lock is of another machine, whose processes are not seen from here.
    """
    locks, owner, host = out / ".snakemake" / "locks", out / "steps" / "host", os.uname().nodename
    if [*locks.glob("*")] and owner.is_file() and (other := owner.read_text()) != host:
        raise BadInput(f"{out}: a command on {other} is at work there; if it no longer is, remove {locks}")
    owner.write_text(host)
    if others := " ".join(str(each.pid) for each in at_work(out)):
        print(f"waiting: a killed command has left processes at work in {out}: {others}", flush=True)
    while at_work(out):
        time.sleep(LOOK)
    shutil.rmtree(locks, ignore_errors=True)


def end(process: subprocess.Popen, out: Path) -> None:
    """End Snakemake, which then starts nothing more and cancels jobs elsewhere, and the steps on this machine."""
    process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + PATIENCE
    while others := at_work(out):
        for each in others:
            with suppress(psutil.Error):
                if time.monotonic() > deadline:
                    each.kill()
                elif "workflow/step.py " in " ".join(each.cmdline()):
                    each.terminate()
        time.sleep(LOOK)
    process.wait()


def heed(number: int, _frame: object) -> None:
    """Ctrl-C and a polite kill end what was started too; they are heeded once."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted("interrupted; what was finished is kept, and the same command goes on", number)


if __name__ == "__main__":
    main()
