"""What a run trains on: records read as views (`views`), those that are sound (`items`), their order (`plan`), and the
tensors of a micro-step (`batch`)."""
