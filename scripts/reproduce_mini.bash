#!/usr/bin/env bash
# The untouched model and all eight methods on the mini benchmark, in one table beside the published figures.
# Takes the same variables as quickstart.bash.
set -euo pipefail
export METHODS=${METHODS:-ga gd kl po gapd gdpd klpd popd}
export OUT=${OUT:-results/reproduce_mini}
export PUBLISHED=${PUBLISHED:-1}
exec bash "$(dirname "$0")/quickstart.bash"
