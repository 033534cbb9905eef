#!/usr/bin/env bash
# Safety unlearning on the embedded mini benchmark, from nothing to a report: bash scripts/quickstart.bash
#   METHODS="ga gd"   which methods to unlearn with (default: po popd)
#   SEED=1            of everything random (default: 233)
#   OUT=FOLDER        where the results go (default: results/quickstart); earlier runs there are replaced
#   PUBLISHED=1       the paper's figures beside the table
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.bash

METHODS=${METHODS:-po popd}
SEED=${SEED:-233}
OUT=${OUT:-results/quickstart}
MINI=dataset/mini
export TOKENIZERS_PARALLELISM=false

# Answer and score one split of the benchmark: evaluate METHOD SPLIT [inference options ...]
evaluate() {
  local method=$1 split=$2
  shift 2
  python ckpt_infer.py --eval_file "$MINI/all_$split.json" --model_path "$MINI/base_model" --loss_type "$method" \
    --output_file "$OUT/$method/predictions_$split.json" --batch_size 128 --max_new_tokens 40 --seed "$SEED" "$@"
  python eval_all.py --judge rules --input_file "$OUT/$method/predictions_$split.json" \
    --file_refer "$MINI/all_$split.json" --output_file_rr "$OUT/$method/verdicts_$split.json" \
    --summary "$OUT/$method/summary_$split.json"
}

echo "== The mini benchmark and its base model"
python -m safeeraser.mini.build --out "$MINI"
python -m safeeraser.benchmark.check "$MINI"

for method in vanilla $METHODS; do
  echo "== $method"
  rm -rf "${OUT:?}/$method"
  adapter=()
  if [ "$method" != vanilla ]; then
    python forget.py --config-name mini.yaml forget_loss="$method" seed="$SEED" save_dir="$OUT/$method"
    adapter=(--checkpoint_path "$OUT/$method")
  fi
  for split in train val; do
    evaluate "$method" "$split" "${adapter[@]}"
  done
  python -m safeeraser.mini.vqa --data "$MINI" --output_file "$OUT/$method/specificity.json" "${adapter[@]}"
done

echo "== Report"
python -m safeeraser.score.report "$OUT" ${PUBLISHED:+--published} \
  --note "The mini benchmark is a demonstration of the mechanism on drawn pictures, not a safety result."
