"""What was asked: the keys of config/forget_lora.yaml, put together (`compose`), checked (`settings`) and passed on
(`trainer_arguments`)."""
