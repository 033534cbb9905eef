"""Judges: query -> judge (served, rules, replay, batch) -> store -> verdict. No torch is imported."""
