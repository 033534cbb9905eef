#!/usr/bin/env bash
# The untouched model and all eight methods on the mini benchmark, in one table next to the published figures.
# It takes the same variables as quickstart.bash.
export SIZE=tiny METHODS=${METHODS:-ga gd kl po gapd gdpd klpd popd} OUT=${OUT:-results/reproduce_mini} PUBLISHED=${PUBLISHED-1}
exec bash "$(dirname "$0")/quickstart.bash" "$@"
