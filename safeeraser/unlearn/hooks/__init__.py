"""Hooks: the parts of a run besides its loss, such as stopping and probes. `unlearn/run.py` lists them."""
