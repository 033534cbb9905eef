"""What is found out before weights are loaded: what a run needs (`dry_run`, `memory`), whether it fits (`advice`),
whether this machine has it (`machine`)."""
