"""Scoring: judges -> verdicts -> metrics -> report. No torch is imported, so scoring starts at once on a laptop."""
