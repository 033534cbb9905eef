#!/usr/bin/env bash
# Unlearn under accelerate: bash scripts/forget_lora.bash [key=value ...]
# On several GPUs by config/accelerate_config.yaml, else in one process, on the GPU or the CPU that is there.
# Another engine: ACCELERATE_CONFIG=config/accelerate/ddp.yaml bash scripts/forget_lora.bash ...
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash
list_gpus
if ((${#gpus[@]} > 1)); then engine=config/accelerate_config.yaml; else engine=config/accelerate/one_gpu.yaml; fi
engine=${ACCELERATE_CONFIG:-$engine}
# First in one process: what is wrong with the settings or the data is then one line, not a page from each process.
python forget.py --config-name forget_lora.yaml "$@" dry_run=true "engine=$engine"
exec accelerate launch --config_file "$engine" \
  forget.py --config-name forget_lora.yaml "$@"
