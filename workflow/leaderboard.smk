# Makes docs/results/leaderboard.md, or its missing parts only: one file for each row's settings, and one for each cell.
#   snakemake -s workflow/leaderboard.smk --cores 2 table            group core, some hours; other rows: --config group=others
#   snakemake -s workflow/leaderboard.smk --cores 1 docs/results/leaderboard/cells/npo+pd/base0-seed1.json
# A file that exists stays, however old it is; remove it to make it again. Several machines can share the work by git.
from safeeraser.leaderboard.plan import RESULTS, read_plan, settings_file

PLAN = read_plan()
GROUP = config.get("group", "core")
CELLS = [str(cell.kept) for cell in PLAN.cells(GROUP)]
PYTHON = "env OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python "


def before(wildcards):
    """What a cell's training waits for: the settings of its method, or the adapter that noise is made like."""
    row = PLAN.row(wildcards.row)
    if row.noise_of:
        return ancient(str(RESULTS / "cells" / row.noise_of / f"base{wildcards.base}-seed{wildcards.seed}.json"))
    return [] if row.model else ancient(str(settings_file(row.settings_of or wildcards.row)))


localrules: table


rule table:
    input: ancient(CELLS)
    shell: PYTHON + "-m safeeraser.leaderboard table"


onstart:
    shell("python -m safeeraser.mini.build --retrains")


rule choose:
    output: str(RESULTS / "settings" / "{row}.json")
    shell: PYTHON + "-m safeeraser.leaderboard choose {wildcards.row:q}"


rule reference:
    output: str(RESULTS / "reference.json")
    shell: PYTHON + "-m safeeraser.leaderboard reference"


rule cell:
    input: before, ancient(str(RESULTS / "reference.json"))
    output: str(RESULTS / "cells" / "{row}" / "base{base}-seed{seed}.json")
    shell: PYTHON + "-m safeeraser.leaderboard cell {wildcards.row:q} {wildcards.base} {wildcards.seed}"
