"""What is found out before weights are loaded: what a run needs (`dry_run`, `memory`), and whether the machine has it
(`machine`)."""
