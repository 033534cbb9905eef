"""Does this machine train and answer right? `python -m safeeraser.selftest`, without hub and data: see `run`.

Stands above `unlearn`, `infer` and `audit`, whose commands it starts and whose parts it measures on a model of random
weights.
"""
