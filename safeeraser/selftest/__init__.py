"""Does this machine train and answer right? `python -m safeeraser.selftest`; is above the rooms whose commands it
starts and whose parts it measures, on a model of random weights."""
