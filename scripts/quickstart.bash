#!/usr/bin/env bash
# Safety unlearning on the embedded mini benchmark, from nothing to a report: bash scripts/quickstart.bash
#   METHODS="ga gd"   methods to unlearn with, in addition to the untouched model (default: po popd)
#   SEED=1            seed of unlearning and of the sampled responses (default: 233)
#   OUT=FOLDER        folder of the results (default: results/quickstart); steps that are finished there are skipped
#   JOBS=1            steps that run at a time (default: one per core)
#   PUBLISHED=1       the paper's figures next to the table
# It runs scripts/reproduce.bash, and takes its other variables and options too.
export MODEL=mini METHODS="vanilla ${METHODS:-po popd}" SEEDS="${SEEDS:-${SEED:-233}}"
if [ "${SIZE:-}" = small ]; then OUT=${OUT:-results/quickstart-small}; fi
export OUT=${OUT:-results/quickstart} PUBLISHED=${PUBLISHED:-}
exec bash "$(dirname "$0")/reproduce.bash" "$@"
