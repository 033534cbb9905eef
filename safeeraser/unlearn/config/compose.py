"""Compose a run's config with Hydra, from a command line or from keywords. This module does not import torch.

The release's settings file is flat: its `forget_loss` and `model_family` are names. In a composed config, both keys
hold the contents of files in config/forget_loss/ and config/model_family/. A flat file is laid on top of `PAGE`.
"""

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from safeeraser.benchmark.files import CONFIG
from safeeraser.benchmark.methods import to_decouple
from safeeraser.benchmark.release import ALIASES, UNREAD
from safeeraser.errors import BadInput, nearest

log = logging.getLogger(__name__)

PAGE = "forget_lora"
FLAGS = {"help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "info"}  # Hydra's own flags
FLAGS |= {"shell-completion", "config-path", "experimental-rerun"}
# Keeps Hydra from writing its own files. Precedes the user's overrides, so that a user can still ask for them.
LEAVES_NOTHING = ("hydra.run.dir=.", "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none")

for group, names in ALIASES.items():
    for alias, name in names.items():
        ConfigStore.instance().store(group=group, name=alias, node={"defaults": [name]})

# `forget_loss=npo+pd` means `forget_loss=npo pd=1` in one word, for commands that take a list of method names.
for name, plain in to_decouple().items():
    ConfigStore.instance().store(group="forget_loss", name=name, node={"defaults": [plain], "pd": 1.0})


def from_command_line() -> list[DictConfig]:
    """The composed configs of a command line: none if Hydra only printed something, several with `--multirun`.
    Raises `BadInput` if the command line names a config file, a key or a choice that does not exist."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-name", "-cn", default=PAGE)
    parser.add_argument("--config-dir", "-cd", type=Path)
    given, rest = parser.parse_known_args()
    _check_words(rest)
    folders = [folder for folder in (CONFIG, given.config_dir) if folder]
    composed: list[DictConfig] = []
    # Hydra then raises an error for a bad command line instead of printing it at length.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    with _told_plainly(lambda: _dotted(_chosen(page, rest, given.config_dir))):
        page = _whole_page(given.config_name.removesuffix(".yaml"), folders)
        more = [f"--config-dir={given.config_dir}"] if given.config_dir else []
        # `trainer` takes any argument of transformers, and Hydra requires a plus for keys that the file lacks.
        rest = [re.sub(r"^(?=trainer[.=])", "++", word) for word in rest]
        # The overrides begin here. Hydra takes them in one piece, before or after its flags.
        place = next((n for n, word in enumerate(rest) if re.match(r"[^-].*=|[~+]", word)), len(rest))
        sys.argv[1:] = ["--config-name", page, *more, *rest[:place], *LEAVES_NOTHING, *rest[place:]]
        hydra.main(version_base="1.3", config_path=str(CONFIG), config_name=PAGE)(composed.append)()
    # A user's config file may set some keys only; the others then come from config/forget_lora.yaml.
    every = {*plain_page(OmegaConf.load(CONFIG / f"{PAGE}.yaml"))} - {"defaults"} | {*groups()}
    return [each if every <= {*map(str, each)} else from_keys(plain_page(each)) for each in composed]


def from_keys(keys: Mapping[str, Any], page: str = PAGE) -> DictConfig:
    """A composed config with some keys set; a key with keys of its own may be set in part.

    Args:
        keys: by name; `{"LoRA.r": 8}` and `{"LoRA": {"r": 8}}` are the same. A group's value is a name or its contents.
        page: the name of a file in config/.

    Raises:
        BadInput: a choice does not exist, or the values do not fit together.
    """
    choices = groups()
    named = {key: value for key, value in keys.items() if key in choices and isinstance(value, str)}
    GlobalHydra.instance().clear()
    with _told_plainly(), initialize_config_dir(str(CONFIG), version_base="1.3"):
        config = compose(page, [f"{group}={name}" for group, name in named.items()])
        OmegaConf.set_struct(config, False)
        for key, value in keys.items():
            if key not in named:
                try:
                    OmegaConf.update(config, key, value, merge=key not in choices)
                except OmegaConfBaseException as error:
                    raise BadInput(f"config: {key}: {str(error).splitlines()[0]}") from None
        return config


def groups() -> list[str]:
    """The keys whose value is a choice among the files of a folder."""
    defaults = plain_page(OmegaConf.load(CONFIG / f"{PAGE}.yaml"))["defaults"]
    return [group for choice in defaults if isinstance(choice, dict) for group in choice]


def _check_words(words: list[str]) -> None:
    """Raise `BadInput` for a key that is written as an option or has no value; Hydra would only print its usage."""
    for before, word in pairwise(["", *words]):
        key = word.lstrip("-").partition("=")[0]
        if word.startswith("--") and key not in FLAGS:
            raise BadInput(f"{word}: keys have no dashes and a value behind =, as in {key}=VALUE")
        if re.fullmatch(r"\w+", word) and not before.startswith("-"):
            raise BadInput(f"{word}: a key has a value behind =, as in dry_run=true")


def _chosen(page: str, words: list[str], folder: Path | None) -> dict[str, Any]:
    """A config file composed with the group choices of a command line, without its other overrides."""
    choices = [word for word in words if word.partition("=")[0] in groups() and "," not in word]  # a comma: a sweep
    beside = [f"hydra.searchpath=['file://{folder.resolve()}']"] if folder else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG), version_base="1.3"):
        return plain_page(compose(page, [*beside, *choices]))


def _whole_page(name: str, folders: list[Path]) -> str:
    """The name of the config to compose: `name`, or for a flat file a new config that puts it on top of `PAGE`."""
    files = (folder / f"{name}.yaml" for folder in folders)
    flat = next((plain_page(OmegaConf.load(file)) for file in files if file.is_file()), {})
    named = {group: flat.pop(group) for group in groups() if isinstance(flat.get(group), str)}
    if not named:
        return name
    if "defaults" in flat:
        group, choice = next(iter(named.items()))
        raise BadInput(f"{name}.yaml: {group}: {choice}: say '- override {group}: {choice}' under its defaults")
    if flat.get("report_to") == "wandb" and find_spec("wandb") is None:
        log.warning("note: report_to=wandb is left out: it is not installed, and the release itself switches it off")
        del flat["report_to"]
    values = {key: value for key, value in flat.items() if key not in UNREAD or value != UNREAD[key]}
    choices = [{f"override {group}": name} for group, name in named.items()]
    ConfigStore.instance().store(name=f"{name}_on_{PAGE}", node={"defaults": [PAGE, *choices, "_self_"], **values})
    return f"{name}_on_{PAGE}"


@contextmanager
def _told_plainly(known_keys: Callable[[], list[str]] = list) -> Iterator[None]:
    """Turn Hydra's errors into a `BadInput` of one line; `known_keys` gives the keys that it may suggest."""
    try:
        yield
    except MissingConfigException as error:
        group, _, name = (error.missing_cfg_file or "").rpartition("/")
        known = error.options or sorted(file.stem for file in CONFIG.glob("*.yaml"))
        raise BadInput(f"{group or 'config'}: no '{name}'; {nearest(name, known)}") from None
    except yaml.YAMLError as error:
        raise BadInput(f"config: not YAML ({' '.join(str(error).split())})") from None
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: a group is null
        reason = str(error).strip().splitlines()[0]
        if unknown := re.fullmatch(r"Could not override '(.+)'\.", reason):
            known, place = known_keys(), unknown[1].rpartition(".")[0]
            while place and place not in known:
                place = place.rpartition(".")[0]
            beside = [key for key in known if key.rpartition(".")[0] == place]
            raise BadInput(f"config: no key '{unknown[1]}'; {nearest(unknown[1], beside or known)}") from None
        raise BadInput(f"command line: {reason}") from None


def plain_page(page: DictConfig | ListConfig) -> dict[str, Any]:
    """A composed config as a plain dict."""
    return cast("dict[str, Any]", OmegaConf.to_container(page))  # a config is a dict, though its type allows a list


def _dotted(page: dict[str, Any], prefix: str = "") -> list[str]:
    """The keys of a config as a command line names them, such as `LoRA.r`."""
    keys = []
    for key, value in page.items():
        if prefix or key != "defaults":
            keys += [prefix + key, *(_dotted(value, f"{prefix}{key}.") if isinstance(value, dict) else ())]
    return keys
