#!/usr/bin/env bash
# Run the test suite, after ruff and (except with -m fast) mypy.
#   bash scripts/test.bash                the fast and the slow tests, as in continuous integration
#   bash scripts/test.bash -m fast        the tests to run while writing code
#   bash scripts/test.bash -m nightly     tests that take long, or need more installed
#   bash scripts/test.bash tests/judge    the tests of one room; all words go to pytest
# Times: CONTRIBUTING.md. What each file proves: tests/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1:-}" in -h | --help) exec sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" ;; esac
source scripts/setup.bash test

ruff check .
ruff format --check .
# -m fast checks no types, because tests that run while you write code should end soon.
[[ " $* " == *" fast "* ]] || python -m mypy
# One thread per worker: models this small lose more by several threads than they gain.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# tests/conftest.py groups tests by file, and gives tests of several processes to one worker. Slow tests come first.
exec python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder "$@"
