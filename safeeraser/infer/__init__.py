"""Inference: turn the benchmark's questions into requests, answer them in batches, write the predictions to disk."""
