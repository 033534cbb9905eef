"""Asks whether an adapter has made the model forget, beside models that know and one that never did.

`run` goes from top to bottom: options -> subjects -> plan (points) -> relearn -> each point answered and judged, or
what is in `inside/` -> statistics -> card, findings. Stands above the other rooms: it has `unlearn` train, `infer`
answer and `score` judge.
"""
