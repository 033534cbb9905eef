"""Does this machine train and answer correctly? Checks it on a model of random weights; nothing is downloaded.

  python -m safeeraser.selftest                         (the largest size that fits; on a CPU tiny: four minutes)
  python -m safeeraser.selftest --only precision,speed
  python -m safeeraser.selftest --family qwen3-vl       (a small model of this family)

Prints a table with each figure, its bound, and pass or fail. Writes a report for bug reports, with versions and machine
but without paths, names and secrets. Exit code 1: a check failed; if it broke off, its output is in a log next to the
report. The model is written to the folder for temporary files (TMPDIR), where 7b takes 30 GiB.
"""

import signal
import sys
from pathlib import Path

from safeeraser.arguments import Arguments, one_of, several
from safeeraser.errors import BadInput, command


@command
def main() -> int:
    """Read the command line and run the checks."""
    from safeeraser.selftest import FAMILIES, SIZES
    from safeeraser.selftest.run import CHECKS, FOR_A_FAMILY, selftest  # only now: it needs psutil

    parser = Arguments(prog="python -m safeeraser.selftest", description=__doc__)
    size = "of the model: tiny (200,000 weights), 1b or 7b, LLaVA-1.5's own numbers (default: the largest that the GPU "
    size += "can train by the dry run's estimate; on a CPU tiny)"
    parser.add_argument("--size", type=one_of("size", SIZES), help=size)
    family = f"a small model of another family instead: {', '.join(FAMILIES)}"
    parser.add_argument("--family", type=one_of("family", FAMILIES), metavar="NAME", help=family)
    only = f"some of {', '.join(CHECKS)} (default: all; with --family {', '.join(FOR_A_FAMILY)})"
    parser.add_argument("--only", type=several("check", CHECKS), metavar="CHECK,...", help=only)
    report = "where the report goes; an earlier one is replaced, nothing else is (default: %(default)s)"
    parser.add_argument("--json", type=Path, default=Path("selftest.json"), metavar="FILE", help=report)
    given = parser.parse_args()
    if given.size and given.family:
        raise BadInput("--size: of LLaVA-1.5; --family has a small model of its own")
    for number in (signal.SIGTERM, signal.SIGHUP):  # so that a kill, or a closed terminal, also ends the checks
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    checks = given.only or (FOR_A_FAMILY if given.family else tuple(CHECKS))
    return selftest(given.family or given.size, checks, given.json)


if __name__ == "__main__":
    main()
