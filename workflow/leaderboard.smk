# docs/results/leaderboard.md from nothing, or what of it is not there yet: a file for each row's settings and for each cell.
#   snakemake -s workflow/leaderboard.smk --cores 2 table            the core, some hours of two cores; others: --config group=others
#   snakemake -s workflow/leaderboard.smk --cores 1 docs/results/leaderboard/cells/npo+pd/base0-seed1.json
# What is there stays, whatever its age: remove a file to have it made again. Several machines can share the work by git.
from safeeraser.leaderboard.plan import RESULTS, read_plan, settings_file

PLAN = read_plan()
GROUP = config.get("group", "core")
CELLS = [str(cell.kept) for cell in PLAN.cells(GROUP)]
PYTHON = "env OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python "


def settings(wildcards):
    """What a cell's training waits for."""
    row = PLAN.row(wildcards.row)
    trained = PLAN.row(row.noise_of) if row.noise_of else row
    name = trained.settings_of or row.noise_of or wildcards.row
    return [] if row.model else ancient(str(settings_file(name)))


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
    input: settings, ancient(str(RESULTS / "reference.json"))
    output: str(RESULTS / "cells" / "{row}" / "base{base}-seed{seed}.json")
    shell: PYTHON + "-m safeeraser.leaderboard cell {wildcards.row:q} {wildcards.base} {wildcards.seed}"
