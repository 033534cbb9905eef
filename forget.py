"""Unlearn: `python forget.py --config-name forget_lora.yaml forget_loss=popd`, or `bash scripts/forget_lora.bash`."""

import logging

from safeeraser import unlearn
from safeeraser.errors import command
from safeeraser.unlearn.page import from_command_line


@command
def main() -> None:
    """Compose the settings of each run, then unlearn."""
    runs = from_command_line()
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    for keys in runs:
        unlearn(**keys)


if __name__ == "__main__":
    main()
