"""Unlearn: `python forget.py --config-name forget_lora.yaml forget_loss=popd`, or `bash scripts/forget_lora.bash`."""

import logging

from safeeraser.errors import command


@command
def main() -> int:
    """Compose and check the settings of each run, then unlearn. Exit code 3: a finished run did not get to the hub."""
    from safeeraser.unlearn.config.compose import from_command_line

    pages = from_command_line()
    from safeeraser.publish import unlearn_and_publish  # imported late: torch loads slowly
    from safeeraser.unlearn.config.read import read_settings

    runs = [read_settings(page) for page in pages]
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    done = [unlearn_and_publish(settings) for settings in runs]
    return 3 if any(run and run.not_sent for run in done) else 0


if __name__ == "__main__":
    main()
