"""Who is audited, and the controls that are asked the same beside it.

- `vanilla`, the untouched model: it knows.
- `tuned`, an adapter of the loss `none`: what fine-tuning alone does.
- `told`, the untouched model under a system text that asks it to refuse: what no training at all does (as VLM-UnBench
  asks, 2026, arXiv 2604.03114).
- `never_knew`, a model trained without what was to be forgotten: what exact unlearning would leave.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safeeraser import model as models
from safeeraser.audit.options import Options
from safeeraser.benchmark.audits import FORMAT
from safeeraser.benchmark.figures import AUDITED
from safeeraser.benchmark.files import read_object, sha256, trained_settings
from safeeraser.benchmark.records import read_records
from safeeraser.errors import BadInput
from safeeraser.infer.predictions import difference
from safeeraser.judge.panel import Panel


@dataclass(frozen=True)
class Subject:
    """A model that is asked.

    Attributes:
        folder: where its points lie.
        adapter: none is a model without one.
        attack: what is done to all that it is asked.
        here: whether to know of the model only what lies on this machine, as for a dry run.
    """

    name: str
    folder: Path
    model_path: str
    adapter: Path | None = None
    attack: str | None = None
    here: bool = False

    @cached_property
    def base(self) -> dict[str, Any]:
        """The fingerprint of the model without its adapter."""
        return models.fingerprint(self.model_path, here=self.here)

    @cached_property
    def weights(self) -> dict[str, Any]:
        """What tells its weights from any others."""
        adapter = sha256(models.adapter_file(self.adapter)) if self.adapter else None
        return {"model_path": self.model_path, "base": self.base["weights"], "checkpoint_sha256": adapter}

    @property
    def begun(self) -> Path:
        """Where the settings stand that its points were begun with."""
        return self.folder / "settings.json"

    def settings(self, options: Options) -> dict[str, Any]:
        """What its responses depend on."""
        return {"format": FORMAT, **self.weights, **options.settings}

    @property
    def whole(self) -> str:
        """Where the model lies with its adapter in it, which relearning begins with."""
        return str(self.folder / "merged") if self.adapter else self.model_path


Subjects = dict[str, Subject]  # by name


def subjects(options: Options, *, here: bool = False) -> Subjects:
    """The adapter and the controls that there are, by name; `here` as in `Subject`.

    The folder of a control is named for what decides its points, so that audits with equal settings share it.
    """
    folder = options.checkpoint_path / "audit"
    found = {AUDITED: Subject(AUDITED, folder, options.model_path, options.checkpoint_path, here=here)}
    for control in (replace(each, here=here) for each in _controls(options)):
        told = json.dumps(control.settings(options), sort_keys=True)
        key = hashlib.sha256(told.encode()).hexdigest()[:10]
        found[control.name] = replace(control, folder=options.controls / f"{control.name}-{key}")
    return found


def _controls(options: Options) -> Iterator[Subject]:
    yield Subject("vanilla", options.controls, options.model_path)
    yield Subject("told", options.controls, options.model_path, attack="told")
    if options.tuned:
        yield Subject("tuned", options.controls, options.model_path, options.tuned)
    if options.never_knew:
        yield Subject("never_knew", options.controls, options.never_knew)


def check_files(options: Options) -> None:
    """Refuse what tells of no subjects: files that are not there, or cannot be read.

    Raises:
        BadInput: naming the first of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadInput(
            "audit.py: was started by a launcher of several processes; start it once for each GPU instead, as "
            "scripts/audit.bash does, and the processes share the points"
        )
    if options.checkpoint_path.is_file():
        raise BadInput(
            f"--checkpoint_path {options.checkpoint_path}: is a file; 'python -m safeeraser.model convert' makes a "
            "PEFT folder of it, in which the audit has its place"
        )
    for adapter in (options.checkpoint_path, options.tuned):
        if adapter:
            models.adapter_file(adapter)
    _check_controls(options)
    options.selection(("forget",)).records(read_records(options.val_file))
    read_records(options.train_file)


def _check_controls(options: Options) -> None:
    """Raises `BadInput` for controls that are none of this model and this adapter."""
    settings = (trained_settings(options.tuned) if options.tuned else None) or {}
    terms = settings.get("forget_loss", {}).get("terms", {})
    if {view for term in terms.values() for view in term["views"]} & {"forget", "refusal"}:
        name = settings["forget_loss"]["name"]
        raise BadInput(f"--tuned {options.tuned}: was trained with {name}, which unlearns; forget_loss=none makes one")
    if options.never_knew:
        own, other = (models.load_config(path).get_text_config() for path in (options.model_path, options.never_knew))
        for key in ("hidden_size", "num_hidden_layers", "vocab_size"):
            if getattr(own, key) != getattr(other, key):
                raise BadInput(f"--never_knew {options.never_knew}: is of another {key} than {options.model_path}")


def check(options: Options, everyone: Subjects, *, dry_run: bool) -> Panel:
    """Refuse what no point could be measured with, before the first one is; returns the judges.

    Args:
        dry_run: whether the judges will not be asked, and so need no key.
    """
    for subject in everyone.values():
        if subject.adapter:
            models.check_base(subject.adapter, subject.base, allowed=options.allow_other_base)
        check_begun(subject, options)
    return Panel(replace(options.judging, dry_run=dry_run))


def check_begun(subject: Subject, options: Options) -> None:
    """Raises `BadInput` if points lie there that were measured with other settings."""
    # Of a point that never came to anything, an empty folder is left.
    if not subject.begun.is_file() or not any(subject.folder.glob("*/*/*")):
        return
    begun = read_object(subject.begun)
    if "format" not in begun:
        raise BadInput(
            f"{subject.folder}: the audit there is of an earlier version, which asked otherwise; its card stays as it "
            "is, but to go on the folder must be moved away"
        )
    if other := difference(begun, subject.settings(options)):
        raise BadInput(
            f"{subject.folder}: the audit there was begun with {other}; give the same settings to go on, or move the "
            "folder away to begin anew"
        )
