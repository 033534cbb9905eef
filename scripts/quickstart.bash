#!/usr/bin/env bash
# Safety unlearning on the embedded mini benchmark, from nothing to a report: bash scripts/quickstart.bash
#   METHODS="ga gd"   which methods to unlearn with, beside the untouched model (default: po popd)
#   SEED=1            of unlearning and of the sampled responses (default: 233)
#   OUT=FOLDER        where the results go (default: results/quickstart); what is finished there is passed over
#   JOBS=1            steps worked on at a time (default: one a core)
#   PUBLISHED=1       the paper's figures beside the table
# This is scripts/reproduce.bash, whose other variables and options it takes too.
export MODEL=mini METHODS="vanilla ${METHODS:-po popd}" SEEDS="${SEEDS:-${SEED:-233}}"
if [ "${SIZE:-}" = small ]; then OUT=${OUT:-results/quickstart-small}; fi
export OUT=${OUT:-results/quickstart} PUBLISHED=${PUBLISHED:-}
exec bash "$(dirname "$0")/reproduce.bash" "$@"
