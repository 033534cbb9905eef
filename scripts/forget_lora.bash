#!/usr/bin/env bash
# Unlearn under accelerate: bash scripts/forget_lora.bash [key=value ...]
# Several GPUs run config/accelerate_config.yaml. Otherwise one process runs, on the GPU or on the CPU.
# Another engine: ACCELERATE_CONFIG=config/accelerate/ddp.yaml bash scripts/forget_lora.bash ...
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/gpu.bash
list_gpus
if ((${#gpus[@]} > 1)); then engine=config/accelerate_config.yaml; else engine=config/accelerate/one_gpu.yaml; fi
engine=${ACCELERATE_CONFIG:-$engine}
# First a dry run in one process: a mistake in settings or data is then one line, not many from each process.
python forget.py --config-name forget_lora.yaml "$@" dry_run=true "engine=$engine"
# The launcher kills its processes this many seconds after Ctrl-C or SIGTERM. By default that is 30, too few to end the
# optimizer step and write a checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-900}
exec accelerate launch --config_file "$engine" \
  forget.py --config-name forget_lora.yaml "$@"
