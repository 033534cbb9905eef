# Sourced by the scripts that run a model. On GPUs, torch's allocator then grows its segments. Otherwise it would keep
# many segments of odd sizes, which tensors of ever new shapes (rows that come and go, pictures, layers) would not fit.
# A setting of your own stays, also under the variable's older name, which torch reads first.
[ -n "${PYTORCH_ALLOC_CONF+set}${PYTORCH_CUDA_ALLOC_CONF+set}" ] || export PYTORCH_ALLOC_CONF=expandable_segments:True

# Set the array `gpus` to the GPUs that a process started from here would see.
list_gpus() {
  gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)} || gpus=""
  read -ra gpus <<< "${gpus//[$',\n']/ }"
}
