"""What goes on beside the loss of a run, as `Hook`s (`hook.py`); `unlearn/run.py` lists those of a run."""
