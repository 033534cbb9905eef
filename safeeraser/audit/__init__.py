"""Asks whether an adapter has made the model forget, beside models that know and one that never did.

subjects -> points -> measure (answered, judged, relearned, or looked into: `inside/`) -> values -> card, findings.
Stands above the other rooms: it has `unlearn` train, `infer` answer and `score` judge.
"""
