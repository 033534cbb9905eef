"""The subjects of an audit: the audited adapter, and the controls (entries of `CONTROLS`) that are asked the same."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safeeraser.audit.options import Options
from safeeraser.benchmark.adapters import adapter_file, adapter_hash, trained_settings
from safeeraser.benchmark.audits import FORMAT
from safeeraser.benchmark.figures import AUDITED
from safeeraser.benchmark.files import hash_settings, read_object
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.infer.predictions import difference
from safeeraser.model.lineage import check_base, fingerprint
from safeeraser.model.load import load_config


@dataclass(frozen=True)
class Subject:
    """A model that is asked."""

    model_path: str
    adapter: Path | None = None  # None: a model without one
    attack: str | None = None  # applied to all its requests; the subject is then not varied in any other way
    relearned: bool = False  # whether it is relearned, too
    name: str = AUDITED
    folder: Path = Path()  # the folder of its points
    here: bool = False  # whether to look for the weights on this machine only, as a dry run does

    @cached_property
    def base(self) -> dict[str, Any]:
        """The fingerprint of the model without its adapter."""
        return fingerprint(self.model_path, here=self.here)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """The values that identify its weights: the model's path and fingerprint, and the adapter's hash."""
        digest = adapter_hash(self.adapter)
        return {"model_path": self.model_path, "base": self.base["weights"], "checkpoint_sha256": digest}

    @property
    def prefix(self) -> str:
        """The beginning of the titles of its points."""
        return "" if self.name == AUDITED else f"{self.name}: "

    @property
    def begun(self) -> Path:
        """The file with the settings that its points were begun with."""
        return self.folder / "settings.json"

    def settings(self, options: Options) -> dict[str, Any]:
        """The weights and the settings that its responses depend on."""
        return {"format": FORMAT, **self.weights, **options.settings}

    @property
    def merged(self) -> str:
        """The path of the model that relearning starts from: with the adapter merged into it, if there is one."""
        return str(self.folder / "merged") if self.adapter else self.model_path


Subjects = dict[str, Subject]  # by name

# `vanilla`, the untouched model, knows the answers. `told`, vanilla with a system text that asks it to refuse, shows
# the effect of asking alone (VLM-UnBench, 2026, arXiv 2604.03114). `tuned`, an adapter of the loss `none`, shows the
# effect of fine-tuning alone. `never_knew`, trained without the answers, shows what exact unlearning would leave.
CONTROLS: dict[str, Callable[[Options], Subject | None]] = {
    "vanilla": lambda given: Subject(given.model_path),
    "told": lambda given: Subject(given.model_path, attack="told"),
    "tuned": lambda given: Subject(given.model_path, given.tuned, relearned=True) if given.tuned else None,
    "never_knew": lambda given: Subject(given.never_knew, relearned=True) if given.never_knew else None,
}


def subjects_of(options: Options) -> Subjects:
    """The audited adapter and the available controls, by name.

    The name of a control's folder has a hash of its settings, so audits with equal settings share its points.
    """
    adapter, here = options.checkpoint_path, options.dry_run
    subjects = {AUDITED: Subject(options.model_path, adapter, relearned=True, folder=adapter / "audit", here=here)}
    for name, make in CONTROLS.items():
        if control := make(options):
            control = replace(control, name=name, here=here)
            key = hash_settings(control.settings(options))
            subjects[name] = replace(control, folder=options.controls / f"{name}-{key}")
    return subjects


def check_inputs(options: Options) -> None:
    """Raise `BadInput` for files that are missing or unreadable, for unsuitable controls, and under a launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            "audit.py: was started by a launcher of several processes; start it once for each GPU instead, as "
            "scripts/audit.bash does, and the processes share the points"
        )
    if options.checkpoint_path.is_file():
        raise BadInput(
            f"--checkpoint_path {options.checkpoint_path}: is a file, and an audit writes into the adapter's folder; "
            "'python -m safeeraser.model convert' makes a PEFT folder from this file"
        )
    for adapter in filter(None, (options.checkpoint_path, options.tuned)):
        adapter_file(adapter)
    settings = (trained_settings(options.tuned) if options.tuned else None) or {}
    terms = settings.get("forget_loss", {}).get("terms", {})
    if {view for term in terms.values() for view in term["views"]} & {"forget", "refusal"}:
        name = settings["forget_loss"]["name"]
        raise BadInput(f"--tuned {options.tuned}: was trained with {name}, which unlearns; forget_loss=none makes one")
    if options.never_knew:
        base, other = (load_config(path).get_text_config() for path in (options.model_path, options.never_knew))
        for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
            if getattr(base, key) != getattr(other, key):
                raise BadInput(f"--never_knew {options.never_knew}: is of another {key} than {options.model_path}")
    options.selection(("forget",)).records(read_records(options.val_file))
    read_records(options.train_file)


def check_subjects(options: Options, subjects: Subjects) -> None:
    """Raise `BadInput` for an adapter of another base model, and a folder that was begun with other settings."""
    for subject in subjects.values():
        if subject.adapter:
            check_base(subject.adapter, subject.base, allowed=options.allow_other_base)
        # A point that was begun without a result leaves an empty folder, which does not count.
        if not subject.begun.is_file() or not any(subject.folder.glob("*/*/*")):
            continue
        begun = read_object(subject.begun)
        if "format" not in begun:
            raise BadInput(
                f"{subject.folder}: holds an audit by an earlier version, which asked in another way; its card stays "
                "as it is. Move the folder away to audit again"
            )
        if other := difference(begun, subject.settings(options)):
            raise BadInput(
                f"{subject.folder}: the audit there was begun with {other}; give the same settings to resume, or move "
                "the folder away to start anew"
            )
