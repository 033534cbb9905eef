"""What an inference run was asked, and which of it goes together."""

from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from safeeraser import model as models
from safeeraser.benchmark.files import sha256
from safeeraser.benchmark.responses import ASKED
from safeeraser.errors import BadInput
from safeeraser.generation.sampling import Generation
from safeeraser.infer.attacks import ATTACKS, Attack
from safeeraser.infer.checkpoint import adapter_hash, check_method
from safeeraser.infer.command_line import BATCH_SIZE, WORKERS
from safeeraser.infer.requests import Selection
from safeeraser.processes import Processes, check_gpu


@dataclass(frozen=True)
class Options:
    """What `ckpt_infer.py` was asked; its help describes each."""

    eval_file: Path
    output_file: Path
    model_path: str
    checkpoint_path: Path | None = None
    loss_type: str = ""
    selection: Selection = field(default_factory=Selection)
    generation: Generation = field(default_factory=Generation)
    backend: str = "local"
    batch_size: int | None = BATCH_SIZE  # None: to be found
    workers: int | None = WORKERS
    dtype: str = "auto"
    lora_alpha: float = 256
    adapter_scale: float = 1.0
    quantization: str = "none"
    decode: str = "graph"
    attack: str | None = None
    base_url: str | None = None
    concurrency: int = 32
    extra_body: dict[str, Any] = field(default_factory=dict)
    allow_other_base: bool = False
    overwrite: bool = False

    @cached_property
    def base(self) -> dict[str, Any]:
        """The fingerprint of the model that the built-in engine loads."""
        return models.fingerprint(self.model_path)

    @property
    def settings(self) -> dict[str, Any]:
        """What the responses depend on, as it is compared when a run goes on."""
        by_backend = {
            "local": lambda: {
                "base": self.base["weights"],
                "checkpoint": adapter_hash(self.checkpoint_path),
                "lora_alpha": self.lora_alpha,
                "adapter_scale": self.adapter_scale,
                "quantization": self.quantization,
                "dtype": str(models.choose_dtype(self.dtype)).removeprefix("torch."),
            },
            # Not the address: the server may be another one tomorrow.
            "openai": lambda: {"extra_body": self.extra_body},
        }
        return {
            "eval_file": sha256(self.eval_file),
            "backend": self.backend,
            "model_path": self.model_path,
            # A folder may be made anew under its old name.
            "merged": (models.merged_into(self.model_path) or {}).get("adapter_sha256"),
            **by_backend[self.backend](),
            **asdict(self.generation),
            "attack": self.attack,
            "attack_code": ATTACKS[self.attack].code if self.attack else None,
            "only": [view for view in ASKED if view in self.selection.views],
            "categories": sorted(self.selection.categories),
            "skip": self.selection.skip,
            "limit": self.selection.limit,
            # What only an audit draws; a run of ckpt_infer.py is told by the rest, as ever.
            **{
                name: value
                for name in ("by_keyword", "samples")
                if (value := getattr(self.selection, name)) is not None
            },
        }


def check_attack(attack: Attack, options: Options) -> None:
    """Refuse an attack that lacks what it works on."""
    named = f"--attack {attack.name}"
    if options.backend == "openai" and (attack.adapter or attack.model):
        raise BadInput(f"{named}: works on the model itself, which a server does not show; --backend local does")
    if attack.adapter and not options.checkpoint_path:
        raise BadInput(f"{named}: changes an adapter, and none was given; --checkpoint_path names one")
    if attack.learns and options.selection.skip < 1:
        raise BadInput(
            f"{named}: reads records that are not asked about; --skip N holds out the first N of each category"
        )


def check(options: Options, processes: Processes) -> None:
    """Refuse what does not go together."""
    if options.output_file.resolve() == options.eval_file.resolve():
        raise BadInput(f"--output_file {options.output_file}: is the data file itself, which stays as it is")
    check_method(options.loss_type, options.checkpoint_path, options.model_path)
    if options.attack:
        check_attack(ATTACKS[options.attack], options)
    if options.backend == "local":
        check_gpu()
        if options.base_url or options.extra_body:
            raise BadInput("--base_url and --extra_body are for a server of your own: --backend openai")
        untouched = not options.checkpoint_path and not models.parents(options.model_path)
        if options.loss_type not in ("", "vanilla") and untouched:
            raise BadInput(f"--loss_type {options.loss_type}: no adapter was given; --checkpoint_path names one")
        if options.adapter_scale != 1 and not options.checkpoint_path:
            raise BadInput("--adapter_scale: of what? --checkpoint_path names an adapter")
        if options.checkpoint_path:
            models.adapter_file(options.checkpoint_path)  # before a model of 7B is looked for on the hub
            models.check_base(options.checkpoint_path, options.base, allowed=options.allow_other_base)
        return
    if not options.base_url:
        raise BadInput("--backend openai: give the server's --base_url, such as http://localhost:8000/v1")
    if options.adapter_scale != 1 or options.quantization != "none":
        raise BadInput("--adapter_scale and --quantization are for the built-in engine; a server has its own model")
    if options.checkpoint_path:
        raise BadInput(
            "--checkpoint_path: a server holds its model whole; 'python -m safeeraser.model merge ADAPTER FOLDER' "
            "makes one of the adapter, and --model_path FOLDER asks for it"
        )
    if processes.count > 1:
        raise BadInput("--backend openai: one process is enough; --concurrency says how many requests it has under way")
