#!/bin/bash
# In place of forget.py, ckpt_infer.py, eval_all.py and the report, for tests of what starts them. Notes in the run's folder
# that it has begun, waits until the file `gate` or `gate-KIND` is there, and notes that it was whole. A file named for the
# run and the step holds the exit code that it is to end with.
place=$(dirname "$0")
[ "$1" != -m ] || { echo report >> "$3/began"; exit; }
for word; do
  case "$word" in
  dry_run=true) exit ;;
  save_dir=*) run=${word#*=} step=unlearn ;;
  --output_file=* | --summary=*) file=${word#*=} run=$(dirname "${word#*=}") step=$(basename "${word#*=}" .json) ;;
  esac
done
mkdir -p "$run"
echo "$step" >> "$run/began"
echo "GPUs $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"
until [ -e "$place/gate" ] || [ -e "$place/gate-${step%%_*}" ]; do sleep 0.02; done
code=$place/$(basename "$run")-$step
if [ -e "$code" ]; then echo "error: too hot, of $step" >&2; exit "$(cat "$code")"; fi
[ "$step" = unlearn ] || echo "{}" > "$file"
echo "$step" >> "$run/ended"
