"""What was asked: the keys of config/forget_lora.yaml, put together (`compose`), checked (`read`, by `settings`) and
passed on (`trainer_arguments`)."""
