#!/usr/bin/env bash
# Removed or hidden? Attacks, relearns and probes an adapter and its controls, then writes the report with its card:
#   bash scripts/audit.bash --checkpoint_path ADAPTER [audit.py options ...]
#   JOBS=2   processes that share the work (default: one for each GPU, or one)
# After a stop at any moment, the same command resumes. An estimate in advance: ... --dry_run
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash
source scripts/no_key.bash
adapter="" dry=""
for word in "$@"; do
  case "$word" in --dry_run | --help | -h) dry=1 ;; --checkpoint_path=*) adapter=${word#*=} ;; esac
  [ "${before:-}" != --checkpoint_path ] || adapter=$word
  before=$word
done
[ -z "$dry" ] || exec python audit.py "$@"
[ -n "$adapter" ] || { echo "usage: bash scripts/audit.bash --checkpoint_path ADAPTER [audit.py options ...]" >&2; exit 2; }

list_gpus
jobs=${JOBS:-${#gpus[@]}}
[[ $jobs =~ ^[0-9]+$ ]] || { echo "error: JOBS=$jobs: must be a whole number" >&2; exit 2; }
pids=()
trap '[ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true' EXIT
for ((job = 0; job < (jobs > 1 ? jobs : 1); job++)); do
  if ((${#gpus[@]})); then export CUDA_VISIBLE_DEVICES=${gpus[job % ${#gpus[@]}]}; fi
  python audit.py "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  # Even if something could not be measured (exit code 3), the card shows the rest.
  wait "$pid" || { status=$?; ((status == 3)) || exit "$status"; }
done
pids=()
python -m safeeraser.report "$adapter"
exit $status
