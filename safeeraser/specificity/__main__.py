"""`python -m safeeraser.specificity --checkpoint_path ADAPTER` (see `run`); scripts/specificity.bash sets it up."""

import logging
import signal
import sys

from safeeraser.errors import command
from safeeraser.specificity.harness import SET_UP
from safeeraser.specificity.options import HARNESS, check, is_set_up, look_over, parser
from safeeraser.specificity.run import RESULT, measure, remove_merged
from safeeraser.specificity.tasks import plan


@command
def main() -> int:
    """Check the options, run the tasks, print the mean. Exit code 3: a task has no figure, so the mean is withheld."""
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    # SIGTERM ends the harness too, as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.dry_run and not is_set_up():
        look_over(options)
        print(f"lmms-eval is not there yet: {SET_UP} would first make {HARNESS.name} with it (about 7 GB)")
        print(f"it would then be asked for: {', '.join(plan(options.tasks, lite=options.lite))}")
        return 0
    job = check(options)
    place = {0: "the CPU", 1: "one GPU"}.get(job.gpus, f"{job.gpus} GPUs")
    print(f"lmms-eval {job.known['versions']['lmms-eval']} on {place}: {', '.join(job.figures)}")
    for name, stand_in in job.replaced.items():
        print(f"note: no judge key: {stand_in} stands for {name}")
    for name, reason in job.missing.items():
        print(f"note: {name} is left out, and so the mean will be withheld: {reason}", flush=True)
    if options.dry_run:
        return 3 if job.missing else 0
    result = measure(job)
    if options.remove_merged and not result["missing"]:
        remove_merged(job)
    withheld = result["value"] is None
    mean = f"withheld: {result['withheld']}" if withheld else f"{result['value']:.1%}, {result['task']}"
    print(f"Specificity: {mean}; written to {job.out / RESULT}")
    return 3 if result["missing"] else 0


if __name__ == "__main__":
    main()
