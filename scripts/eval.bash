#!/usr/bin/env bash
# Efficacy and Generality, SARR, ROUGE-L and GPT-Eval of predictions made by infer.bash:
#   OPENAI_API_KEY=... bash scripts/eval.bash ADAPTER [eval_all.py options ...]
# ATTACK=NAME scores the responses of infer.bash under that attack, into summary_{train,val}_NAME.json.
# The cost in advance: bash scripts/eval.bash ADAPTER --dry_run
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/no_key.bash
[ $# -gt 0 ] || { echo "usage: bash scripts/eval.bash ADAPTER [eval_all.py options ...]" >&2; exit 2; }
adapter=$1
shift
under=${ATTACK:+_$ATTACK}
status=0
for split in train val; do
  # Even if figures of one split are withheld (exit code 3), the other split is scored.
  python eval_all.py --input_file "$adapter/predictions_$split$under.json" --file_refer "dataset/all_$split.json" \
    --output_file_rr "$adapter/verdicts_$split$under.json" --summary "$adapter/summary_$split$under.json" "$@" ||
    { status=$?; [ $status = 3 ] || exit $status; }
done
exit $status
