#!/usr/bin/env bash
# The test suite; ruff comes first and, but for -m fast, mypy.
#   bash scripts/test.bash                what continuous integration runs: the fast and the slow tests
#   bash scripts/test.bash -m fast        what to run while writing
#   bash scripts/test.bash -m nightly     what only takes long, or needs more installed
#   bash scripts/test.bash tests/judge    one room; all words go to pytest
# Times: CONTRIBUTING.md. What each file proves: tests/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) exec sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" ;; esac
source scripts/setup.bash test

ruff check .
ruff format --check .
# Types are left to the whole suite: what one runs while writing should end soon.
[[ " $* " == *" fast "* ]] || python -m mypy
# One thread a worker: models this small lose more to threads than they gain.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# tests/conftest.py groups the tests by file, and those of several processes in one worker. Slow files come first.
exec python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder "$@"
