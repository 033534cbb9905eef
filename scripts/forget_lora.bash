#!/usr/bin/env bash
# Unlearn under accelerate: bash scripts/forget_lora.bash [key=value ...]
# Another engine: ACCELERATE_CONFIG=config/accelerate/one_gpu.yaml bash scripts/forget_lora.bash ...
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash
engine=${ACCELERATE_CONFIG:-config/accelerate_config.yaml}
# First in one process: what is wrong with the settings or the data is then one line, not a page from each process.
python forget.py --config-name forget_lora.yaml "$@" dry_run=true "engine=$engine"
exec accelerate launch --config_file "$engine" \
  forget.py --config-name forget_lora.yaml "$@"
