"""Code that `unlearn`, `infer`, `score` and others share: records on disk, their checks, the conversation.

Nothing here imports torch, so that scoring starts at once on a laptop.
"""
