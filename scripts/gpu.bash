# Sourced by the scripts that run a model, for GPUs alone: torch's allocator then grows its pieces instead of keeping many
# of odd sizes, which what is made with other shapes each time (rows that come and go, pictures, layers) would not fit.
# A setting of your own stays, under torch's older name for it too, which torch reads first.
[ -n "${PYTORCH_ALLOC_CONF+set}${PYTORCH_CUDA_ALLOC_CONF+set}" ] || export PYTORCH_ALLOC_CONF=expandable_segments:True

# Sets the array `gpus`: those that a process started from here would see.
list_gpus() {
  gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null)} || gpus=""
  read -ra gpus <<< "${gpus//[$',\n']/ }"
}
