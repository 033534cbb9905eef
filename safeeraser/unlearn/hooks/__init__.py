"""What goes on beside the loss of a run. Each file is a `Hook` (`hook.py`); `unlearn/run.py` lists those of a run."""
