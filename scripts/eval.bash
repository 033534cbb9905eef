#!/usr/bin/env bash
# Efficacy and Generality, SARR, ROUGE-L and GPT-Eval of predictions made by infer.bash:
#   OPENAI_API_KEY=... bash scripts/eval.bash ADAPTER [eval_all.py options ...]
set -euo pipefail
cd "$(dirname "$0")/.."
adapter=${1:?usage: bash scripts/eval.bash ADAPTER [eval_all.py options ...]}
shift
for split in train val; do
  python eval_all.py --input_file "$adapter/predictions_$split.json" --file_refer "dataset/all_$split.json" \
    --output_file_rr "$adapter/verdicts_$split.json" --summary "$adapter/summary_$split.json" "$@"
done
