"""The hallway: what the rooms `unlearn`, `infer` and `score` share. Records on disk, their checks, the conversation.

Nothing here imports torch, so that scoring starts at once on a laptop.
"""
