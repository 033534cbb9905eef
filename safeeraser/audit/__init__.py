"""Asks whether an adapter has made the model forget: attacks, relearning, rounding, scaling, and what refusal hangs on.

Stands above the other rooms: it has `unlearn` train, `infer` answer and `score` judge, and keeps no figure of its own.
"""
