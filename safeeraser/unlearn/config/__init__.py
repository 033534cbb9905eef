"""A run's settings: `compose` reads config/forget_lora.yaml and overrides, `read` checks them against `settings`
and `sections`, and `trainer_arguments` passes them to Trainer. `engine` is what accelerate adds at launch."""
