"""Judges: a query goes to the judge of its metric (`panel`), served or offline, and comes back a verdict. No torch."""
