"""Unlearn: `python forget.py --config-name forget_lora.yaml forget_loss=popd`, or `bash scripts/forget_lora.bash`."""

import logging
import os
import re
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from safeeraser.errors import BadInput, command, nearest

# Hydra then raises what is wrong with a command line instead of printing pages about it.
os.environ["HYDRA_FULL_ERROR"] = "1"


def compose() -> list[DictConfig]:
    """The config of the command line: none where Hydra only had to print something, several with `--multirun`."""
    composed = []
    hydra.main(version_base="1.3", config_path="config", config_name="forget_lora")(composed.append)()
    return composed


def dotted(page: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of a config page as a command line names them; Hydra's own are left out."""
    keys = []
    for key, value in page.items():
        if prefix or key not in ("defaults", "hydra"):
            keys += [prefix + key, *(dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else ())]
    return keys


@command
def main() -> None:
    """Compose the config, then unlearn."""
    try:
        configs = compose()
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        raise BadInput(f"{group or 'config'}: no '{name}'; {nearest(name, error.options or [])}") from None
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).strip().splitlines()[0]
        if unknown := re.fullmatch(r"Could not override '(.+)'\.", reason):
            page = OmegaConf.to_container(OmegaConf.load(Path(__file__).parent / "config" / "forget_lora.yaml"))
            raise BadInput(f"config: no key '{unknown[1]}'; {nearest(unknown[1], dotted(page))}") from None
        raise BadInput(f"command line: {reason}") from None
    if configs:
        # Only now, since torch takes its time to load.
        from safeeraser.unlearn.run import forget
        from safeeraser.unlearn.settings import read_settings

        logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
        for config in configs:
            forget(read_settings(config))


if __name__ == "__main__":
    main()
