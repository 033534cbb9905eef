#!/usr/bin/env bash
# Efficacy and Generality, SARR, ROUGE-L and GPT-Eval of predictions made by infer.bash:
#   OPENAI_API_KEY=... bash scripts/eval.bash ADAPTER [eval_all.py options ...]
# What it will cost: bash scripts/eval.bash ADAPTER --dry_run
set -euo pipefail
cd "$(dirname "$0")/.."
adapter=${1:?usage: bash scripts/eval.bash ADAPTER [eval_all.py options ...]}
shift
status=0
for split in train val; do
  # Withheld figures of one split (exit code 3) do not keep the other from being scored.
  python eval_all.py --input_file "$adapter/predictions_$split.json" --file_refer "dataset/all_$split.json" \
    --output_file_rr "$adapter/verdicts_$split.json" --summary "$adapter/summary_$split.json" "$@" ||
    { status=$?; [ $status = 3 ] || exit $status; }
done
exit $status
