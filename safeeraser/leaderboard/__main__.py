"""Compare all methods on the mini benchmark: one budget, several base models and seeds (docs/results/leaderboard.md).

  python -m safeeraser.mini.build --retrains
  python -m safeeraser.leaderboard choose npo+pd       choose its learning rate and steps within the budget
  python -m safeeraser.leaderboard cell npo+pd 0 1     measure its run on base model 0 with seed 1

workflow/leaderboard.smk runs all that is missing. After a stop, the same command resumes.
"""

import logging
import sys

from safeeraser.arguments import Arguments
from safeeraser.errors import command


def arguments() -> Arguments:
    """The command line."""
    parser = Arguments(prog="python -m safeeraser.leaderboard", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    command = parts.add_parser("choose", help="choose a row's learning rate and steps")
    command.add_argument("row", help="a row of config/leaderboard.yaml")
    command = parts.add_parser("reference", help="measure the models that never knew, the reference for distances")
    command = parts.add_parser("cell", help="train a row's method, and measure")
    command.add_argument("row", help="a row of config/leaderboard.yaml")
    command.add_argument("base", type=int, help="the base model's number")
    command.add_argument("seed", type=int, help="the seed of unlearning and sampling")
    parts.add_parser("table", help="make docs/results/leaderboard.md of all cells")
    return parser


@command
def main() -> None:
    """Read the command line and run the part that it names."""
    given = arguments().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for noisy in ("httpx", "safeeraser.unlearn", "safeeraser.infer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    from safeeraser.leaderboard.plan import Cell, read_plan  # only here: its imports are slow

    plan = read_plan()
    if given.part == "choose":
        from safeeraser.leaderboard.choose import choose_settings

        choose_settings(plan, given.row)
    elif given.part == "reference":
        from safeeraser.leaderboard.distance import write_reference

        write_reference(plan)
    elif given.part == "cell":
        from safeeraser.leaderboard.cell import write_cell

        write_cell(plan, Cell(given.row, given.base, given.seed))
    else:
        from safeeraser.leaderboard.table import write_table

        write_table(plan)


if __name__ == "__main__":
    main()
