"""Reproduce the paper's table from data to report: unlearn by each method, answer, judge, and compare with the paper.

  python workflow/door.py --model llava-1.5-7b --methods "po popd" --seeds "233 1 2" --dry_run
  MODEL=mini bash scripts/reproduce.bash            (the same, after it has installed what it needs)

Checks everything that can be wrong, then starts Snakemake on workflow/Snakefile; words after `--` go to Snakemake. If
it is interrupted, the same command resumes. Exit code 1: a step failed, as listed; 3: something is missing.
"""

import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from plan import OPTIONAL, ROOT, Plan, read_plan
from run import Workflow

from safeeraser.arguments import Arguments, count_or, without_credentials
from safeeraser.benchmark.family import families
from safeeraser.benchmark.pages import read_page
from safeeraser.errors import BadInput, command, nearest

PAGES = ROOT / "workflow" / "config"
# The commands that further options can be passed to.
PARTS = {"build": "what makes the data (mini: safeeraser.mini.build)", "forget": "forget.py", "infer": "ckpt_infer.py"}
PARTS |= {"score": "eval_all.py", "specificity": "the step specificity", "audit": "audit.py"}


def arguments() -> Arguments:
    """The command line."""
    parser = Arguments(prog="python workflow/door.py", description=__doc__)
    add = parser.add_argument
    add("--model", default="llava-1.5-7b", help="mini, or a page of config/model_family/ (default: %(default)s)")
    add("--methods", help="by name; vanilla is the untouched model (default: all nine; mini-small: five)")
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
    add("--retry", action="store_true", help="also repeat steps that ended with something missing (exit code 3)")
    group = parser.add_argument_group("instead of working").add_mutually_exclusive_group()
    group.add_argument("--dry_run", action="store_true", help="check, print the plan and its cost, and stop")
    group.add_argument("--status", action="store_true", help="print what is done, and stop")
    return parser


@command
def main() -> int:
    """Read the command line; then print the status, make a dry run, or work."""
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    given = arguments().parse_args(words[:cut])
    os.chdir(ROOT)
    workflow = Workflow(plan_of(given), given.profile, words[cut + 1 :])
    if given.status:
        return workflow.status()
    return workflow.dry_run() if given.dry_run else workflow.work(retry=given.retry)


def plan_of(given: Namespace) -> Plan:
    """The plan that the command line asks for. Raises `BadInput` if a word is wrong."""
    file = given.settings or PAGES / f"{given.model}.yaml"
    page = read_page(file if given.settings or file.is_file() else file.with_name("real.yaml"), PAGES)
    page["model_family"] = page.get("model_family") or given.model
    page["model_path"] = given.model_path or known_path(given.model, page["model_family"])
    page |= {key: value for key in ("methods", "seeds", "judge", "data", "jobs") if (value := getattr(given, key))}
    for key in (f"{part}_options" for part in PARTS):
        page[key] = " ".join(filter(None, [page.get(key), *getattr(given, key)]))
        try:
            words = shlex.split(page[key])
        except ValueError as error:
            raise BadInput(f"--{key}: {str(error).lower()} in: {page[key]}") from None
        if any(word.partition("=")[0] == "--api_key" for word in words):
            raise BadInput("--api_key: not here, where everybody can see it; set OPENAI_API_KEY instead")
    if engine := given.accelerate_config:
        if engine != "none" and not Path(engine).is_file():
            raise BadInput(f"--accelerate_config {engine}: no such file")
        page["engine"] = None if engine == "none" else engine
    page["checkpoints"] = any("save_steps=" in text for text in given.forget_options)
    page["steps"] = [*(page.get("steps") or ()), *(step for step in OPTIONAL if getattr(given, step))]
    out = Path(given.out or f"results/reproduce/{given.model}")
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise BadInput(f"--out {out}: {there} is a file")
    page |= {"published": given.published, "out": str(out)}
    environment = page.get("environment") or {}
    chosen = {name: text for name, text in os.environ.items() if name in {*environment, "OMP_NUM_THREADS"}}
    plan = read_plan(page | {"environment": environment | chosen}, str(file))
    for word in (plan.judge, *plan.score_options.split(), *plan.audit_options.split()):
        if "://" in word and without_credentials(word) != word:
            raise BadInput(
                "--judge: a name, password or key in an address would be written to files; set OPENAI_API_KEY"
            )
    return plan


def known_path(model: str, family: str) -> str:
    """The weights that a model's config file names. Raises `BadInput` if there is no such file, or it names none."""
    known = families()
    if family not in known:
        models = {name for name, page in known.items() if page.model_path} | {page.stem for page in PAGES.glob("mini*")}
        raise BadInput(f"--model {model}: no such model; {nearest(model, models)}")
    if path := known[family].model_path:
        return path
    sizes = [name for name, of in known.items() if of.model_type == known[family].model_type and of.model_path]
    raise BadInput(f"--model {model}: a family, none of its models; say --model_path, or one of {', '.join(sizes)}")


if __name__ == "__main__":
    main()
