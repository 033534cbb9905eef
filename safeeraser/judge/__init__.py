"""Judges: `panel` sends each query to its metric's judge, served or offline, which returns a verdict. No torch."""
