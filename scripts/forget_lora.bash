#!/usr/bin/env bash
# Unlearn under accelerate: bash scripts/forget_lora.bash [key=value ...]
# Another engine: ACCELERATE_CONFIG=config/accelerate/one_gpu.yaml bash scripts/forget_lora.bash ...
set -euo pipefail
cd "$(dirname "$0")/.."
exec accelerate launch --config_file "${ACCELERATE_CONFIG:-config/accelerate_config.yaml}" \
  forget.py --config-name forget_lora.yaml "$@"
