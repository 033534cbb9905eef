"""Audit an adapter: find out whether the model forgot, compared with controls that know or never knew the answers.

`run` works from top to bottom: options -> subjects -> plan (points) -> relearn -> each point is answered and judged, or
measured by `inside/` -> statistics -> card, findings. This package is the layer above `unlearn`, `infer` and `score`,
which train, answer and judge for it.
"""
