"""Who is audited, and the controls that are asked the same beside it: each an entry of `CONTROLS`."""

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
    attack: str | None = None  # done to all that it is asked; nothing else is varied then
    relearned: bool = False  # whether it is trained on too
    name: str = AUDITED
    folder: Path = Path()  # where its points lie
    here: bool = False  # whether to know of the model only what lies on this machine, as for a dry run

    @cached_property
    def base(self) -> dict[str, Any]:
        """The fingerprint of the model without its adapter."""
        return fingerprint(self.model_path, here=self.here)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """What distinguishes its weights from any others."""
        digest = adapter_hash(self.adapter)
        return {"model_path": self.model_path, "base": self.base["weights"], "checkpoint_sha256": digest}

    @property
    def prefix(self) -> str:
        """What the names of its points begin with."""
        return "" if self.name == AUDITED else f"{self.name}: "

    @property
    def begun(self) -> Path:
        """The file of the settings that its points were begun with."""
        return self.folder / "settings.json"

    def settings(self, options: Options) -> dict[str, Any]:
        """What its responses depend on."""
        return {"format": FORMAT, **self.weights, **options.settings}

    @property
    def merged(self) -> str:
        """The path of the model with its adapter in it, which relearning begins with."""
        return str(self.folder / "merged") if self.adapter else self.model_path


Subjects = dict[str, Subject]  # by name

# The untouched model knows. `tuned`, an adapter of the loss `none`, shows what fine-tuning alone does; `told`, the
# untouched model under a system text that asks it to refuse, what no training at all does (as VLM-UnBench asks, 2026,
# arXiv 2604.03114); `never_knew`, a model trained without what was to be forgotten, what exact unlearning would leave.
CONTROLS: dict[str, Callable[[Options], Subject | None]] = {
    "vanilla": lambda given: Subject(given.model_path),
    "told": lambda given: Subject(given.model_path, attack="told"),
    "tuned": lambda given: Subject(given.model_path, given.tuned, relearned=True) if given.tuned else None,
    "never_knew": lambda given: Subject(given.never_knew, relearned=True) if given.never_knew else None,
}


def subjects_of(options: Options) -> Subjects:
    """The adapter and the controls that there are, by name.

    The folder of a control is named for what decides its points, so that audits with equal settings share it.
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
    """Refuse files that are not there, or cannot be read, and controls that are none of this model."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            "audit.py: was started by a launcher of several processes; start it once for each GPU instead, as "
            "scripts/audit.bash does, and the processes share the points"
        )
    if options.checkpoint_path.is_file():
        raise BadInput(
            f"--checkpoint_path {options.checkpoint_path}: is a file; 'python -m safeeraser.model convert' makes a "
            "PEFT folder from this file, in which the audit has its place"
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
    """Refuse an adapter of another base, and a folder whose points were measured with other settings."""
    for subject in subjects.values():
        if subject.adapter:
            check_base(subject.adapter, subject.base, allowed=options.allow_other_base)
        # Of a point that never came to anything, an empty folder is left.
        if not subject.begun.is_file() or not any(subject.folder.glob("*/*/*")):
            continue
        begun = read_object(subject.begun)
        if "format" not in begun:
            raise BadInput(
                f"{subject.folder}: the audit there is of an earlier version, which asked otherwise; its card stays as "
                "it is, but to go on the folder must be moved away"
            )
        if other := difference(begun, subject.settings(options)):
            raise BadInput(
                f"{subject.folder}: the audit there was begun with {other}; give the same settings to go on, or move "
                "the folder away to begin anew"
            )
