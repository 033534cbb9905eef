#!/usr/bin/env bash
# Predictions on both splits of the real benchmark: bash scripts/infer.bash ADAPTER [ckpt_infer.py options ...]
# Writes ADAPTER/predictions_{train,val}.json. After a stop at any moment, the same command resumes.
# ATTACK=NAME answers under an attack, into predictions_{train,val}_NAME.json.
# Several GPUs: ACCELERATE_CONFIG=config/accelerate/ddp.yaml bash scripts/infer.bash ...
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash
[ $# -gt 0 ] || { echo "usage: bash scripts/infer.bash ADAPTER [ckpt_infer.py options ...]" >&2; exit 2; }
adapter=$1
shift
under=${ATTACK:+_$ATTACK}
launcher=(python)
if [ -n "${ACCELERATE_CONFIG:-}" ]; then launcher=(accelerate launch --config_file "$ACCELERATE_CONFIG"); fi
status=0
for split in train val; do
  # Even if one split lacks responses (exit code 3, or the launcher's 1), the other split is answered.
  "${launcher[@]}" ckpt_infer.py --eval_file "dataset/all_$split.json" --checkpoint_path "$adapter" \
    --output_file "$adapter/predictions_$split$under.json" ${ATTACK:+--attack "$ATTACK"} "$@" ||
    { status=$?; [ $status != 130 ] || exit 130; }
done
exit $status
