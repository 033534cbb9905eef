"""The data of a run: records read as views (`views`), the usable items (`items`), their order (`plan`), and the tensors
of a micro-step (`batch`)."""
