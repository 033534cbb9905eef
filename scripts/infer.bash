#!/usr/bin/env bash
# Predictions on both splits of the real benchmark: bash scripts/infer.bash ADAPTER [ckpt_infer.py options ...]
# Writes ADAPTER/predictions_{train,val}.json; stopped at any moment, the same command goes on.
set -euo pipefail
cd "$(dirname "$0")/.."
adapter=${1:?usage: bash scripts/infer.bash ADAPTER [ckpt_infer.py options ...]}
shift
for split in train val; do
  python ckpt_infer.py --eval_file "dataset/all_$split.json" --checkpoint_path "$adapter" \
    --output_file "$adapter/predictions_$split.json" "$@"
done
