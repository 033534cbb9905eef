#!/usr/bin/env bash
# The test suite: bash scripts/test.bash [pytest options ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.bash test

ruff check .
ruff format --check .
python -m mypy
# One thread a worker: models this small lose more to threads than they gain.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# By file: what a file's tests share is made once, and those of several processes are in one worker. Slow files first.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
