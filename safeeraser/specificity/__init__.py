"""Specificity: the merged model's scores on plain VQA benchmarks, by lmms-eval.

The harness is a program with an environment of its own. Only `worker.py`, which runs there, imports torch.
"""
