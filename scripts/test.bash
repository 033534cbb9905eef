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
# tests/conftest.py groups the tests by file, and those of several processes in one worker. Slow files come first.
exec python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder "$@"
