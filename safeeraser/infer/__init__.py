"""Inference: the benchmark's questions as requests, an engine that answers them in batches, predictions on disk."""
