#!/usr/bin/env bash
# Safety unlearning on the embedded mini benchmark, from nothing to a report: bash scripts/quickstart.bash
#   METHODS="ga gd"   which methods to unlearn with (default: po popd)
#   SEED=1            of unlearning and of the sampled responses (default: 233)
#   OUT=FOLDER        where the results go (default: results/quickstart); earlier runs of the same methods are replaced
#   JOBS=1            methods worked on at a time (default: one a core)
#   PUBLISHED=1       the paper's figures beside the table
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup.bash

METHODS=${METHODS:-po popd}
export SEED=${SEED:-233} OUT=${OUT:-results/quickstart} MINI=dataset/mini
# A model this small gains nothing from several threads, so each method has one core to itself.
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false TQDM_MININTERVAL=5 PYTHONUNBUFFERED=1

# Unlearn with METHOD (vanilla: the untouched model), answer both splits and the held-out VQA, score.
run_method() {
  local method=$1 adapter=() score
  rm -rf "${OUT:?}/$method"
  if [ "$method" != vanilla ]; then
    echo "unlearning"
    python forget.py --config-name mini.yaml forget_loss="$method" seed="$SEED" save_dir="$OUT/$method"
    adapter=(--checkpoint_path "$OUT/$method")
  fi
  for split in train val; do
    echo "answering and judging $split"
    python ckpt_infer.py --eval_file "$MINI/all_$split.json" --model_path "$MINI/base_model" --loss_type "$method" \
      --output_file "$OUT/$method/predictions_$split.json" --batch_size 128 --max_new_tokens 40 --seed "$SEED" \
      "${adapter[@]}"
    score=(python eval_all.py --protocol corrected --input_file "$OUT/$method/predictions_$split.json"
      --file_refer "$MINI/all_$split.json")
    "${score[@]}" --judge truth --output_file_rr "$OUT/$method/verdicts_$split.json" \
      --summary "$OUT/$method/summary_$split.json"
    echo "how far the offline judge can be trusted on $split"
    "${score[@]}" --judge rules --agree "$OUT/$method" --summary "$OUT/$method/rules/summary_$split.json"
  done
  python -m safeeraser.mini.vqa --data "$MINI" --output_file "$OUT/$method/specificity.json" "${adapter[@]}"
}

# The same with the method's name before each line, since several may be at work; a progress bar becomes lines.
run_named() {
  set -euo pipefail
  run_method "$1" 2>&1 | tr '\r' '\n' | sed -u "s/^/[$1] /"
}
export -f run_method run_named

echo "== The mini benchmark and its base model"
python -m safeeraser.mini.build --out "$MINI"
python -m safeeraser.benchmark.check "$MINI"

echo "== Unlearning and evaluation: vanilla $METHODS"
# shellcheck disable=SC2086  # METHODS is a list of words
printf '%s\n' $METHODS vanilla | xargs -P "${JOBS:-$(getconf _NPROCESSORS_ONLN)}" -I{} bash -c 'run_named {}'

echo "== Report"
python -m safeeraser.report "$OUT" ${PUBLISHED:+--published} \
  --note "The mini benchmark is a demonstration of the mechanism on drawn pictures, not a safety result."
