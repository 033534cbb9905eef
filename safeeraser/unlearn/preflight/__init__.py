"""Checks before weights are loaded: a run's needs (`dry_run`, `memory`), and whether the machine meets them
(`machine`)."""
