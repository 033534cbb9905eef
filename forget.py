"""Unlearn: `python forget.py --config-name forget_lora.yaml forget_loss=popd`, or `bash scripts/forget_lora.bash`."""

import logging

from safeeraser import unlearn
from safeeraser.errors import command
from safeeraser.unlearn.page import from_command_line


@command
def main() -> int:
    """Compose the settings of each run, then unlearn; exit code 3 where one is whole but did not get to the hub."""
    runs = from_command_line()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    done = [unlearn(**keys) for keys in runs]
    return 3 if any(run and run.not_sent for run in done) else 0


if __name__ == "__main__":
    main()
