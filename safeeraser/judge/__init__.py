"""Judges: query -> judge (served, rules, truth, replay, batch) -> store -> verdict. No torch is imported."""
