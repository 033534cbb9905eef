"""The options of `audit.py`: its command line, and the defaults that are derived from the adapter.

torch is imported only when a value needs it, so that `--help` and error messages appear at once.
"""

from argparse import Namespace
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safeeraser.arguments import Arguments, add_options, count, count_or, option, options_in, several
from safeeraser.benchmark.adapters import trained_settings
from safeeraser.benchmark.files import sha256
from safeeraser.errors import BadInput, nearest
from safeeraser.infer.attacks import ATTACKS
from safeeraser.infer.options import BATCH_SIZE, DECODE
from safeeraser.infer.requests import Selection
from safeeraser.judge.judging import FORMS, JudgeWords, Judging, make_judging
from safeeraser.score.options import BOUNDS
from safeeraser.score.options import Options as ScoreOptions

if TYPE_CHECKING:
    from safeeraser.audit.relearn import Data, Protocol
    from safeeraser.generation.sampling import Generation

ACTIONS = ("all", "attacks", "inside", "modality", "quantize", "relearn", "sampling", "scale")
DEFAULT = " (default: %(default)s)"
COUNT: dict[str, Any] = {"type": count, "metavar": "N"}
ASKED, CONTROLS, RELEARNING = "what is asked", "controls", "relearning"  # titles of option groups
asked = partial(option, group=ASKED)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `audit.py` and its judges; `read_options` fills in the options that were not given."""

    checkpoint_path: Path = option(metavar="ADAPTER", help="the adapter, a PEFT folder")
    model_path: str = option(None, help="its base model (default: the one that the adapter's folder names)")
    allow_other_base: bool = option(False, help="allow an adapter that was trained on other weights than that model's")
    dry_run: bool = option(False, help="print how much it would take, and stop")
    val_file: Path = option(
        None,
        group=ASKED,
        help="the data file whose questions are asked (default: all_val.json beside the training data)",
    )
    limit: int | None = asked(
        30,
        type=count_or("all"),
        metavar="N",
        help="records of each category, drawn from all keywords alike, after those held out; all: no limit" + DEFAULT,
    )
    attacks: tuple[str, ...] = asked(
        None, type=several("attack"), metavar="NAMES", help="only these attacks of docs/guides/infer.md (default: all)"
    )
    samples: int = asked(
        1, **COUNT, help="responses to a harmful question, unless several temperatures are tried" + DEFAULT
    )
    max_new_tokens: int = asked(512, **COUNT, help="tokens a response" + DEFAULT)
    seed: int = asked(233, help="of responses, attacks and relearning" + DEFAULT)
    batch_size: int | None = asked(
        BATCH_SIZE, type=count_or("auto"), metavar="N", help="responses at a time, as for ckpt_infer.py" + DEFAULT
    )
    dtype: str = asked("auto", help="auto, float32, bfloat16 or float16" + DEFAULT)
    decode: str = asked("graph", **DECODE)
    tuned: Path | None = option(
        None,
        group=CONTROLS,
        metavar="ADAPTER",
        help="what fine-tuning alone does: an adapter of forget_loss=none or none+pd (default: none+pd beside ADAPTER)",
    )
    never_knew: str | None = option(
        None,
        group=CONTROLS,
        metavar="MODEL",
        help="a model that was trained without what is to be forgotten (default: never_knew beside the base model)",
    )
    controls: Path = option(
        None, group=CONTROLS, metavar="FOLDER", help="where their points lie (default: controls beside ADAPTER)"
    )
    train_file: Path = option(
        None, group=RELEARNING, help="the benign pairs (default: the data that the adapter was trained on)"
    )
    held_out: int = option(
        1,
        group=RELEARNING,
        **COUNT,
        help="so many harmful records of each category of --val_file are held out: relearning trains on them, and no "
        "question is about them" + DEFAULT,
    )
    relearn: Path | None = option(
        None,
        group=RELEARNING,
        metavar="FILE",
        help="the protocol: rank, rate, steps, attackers, seeds (default: config/relearn.yaml)",
    )
    # `arguments`, `ScoreOptions` and `Judging` declare the options from here on; the protocol is read from a file.
    actions: tuple[str, ...] = ("all",)
    max_failed: float = 0.01
    max_blank: float = 0.01
    judging: Judging = field(default_factory=Judging)
    protocol: "Protocol"

    @property
    def card(self) -> Path:
        """The path of `audit.json`, which the report reads."""
        return self.checkpoint_path / "audit.json"

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """The settings that the adapter was trained with; None if its folder does not record them."""
        return trained_settings(self.checkpoint_path)

    @property
    def split(self) -> str | list[str]:
        """The categories that the adapter was trained on; nothing in other categories was to be forgotten."""
        trained = self.trained or {}
        # The categories of a user's own data do not occur among the benchmark's records.
        other_data = trained.get("data", {}).get("name", "safeeraser") != "safeeraser"
        return "all" if other_data else trained.get("split", "all")

    @property
    def data(self) -> "Data":
        """The data that relearning can train on."""
        from safeeraser.audit.relearn import Data

        return Data(self.train_file, self.val_file, self.held_out, self.split)

    @property
    def generation(self) -> "Generation":
        """How responses are drawn, unless a point sets its own temperature."""
        from safeeraser.generation.sampling import Generation

        return Generation(max_new_tokens=self.max_new_tokens, seed=self.seed)

    def selection(self, views: tuple[str, ...], samples: int | None = None) -> Selection:
        """The records to ask, the same at every point: drawn evenly from all keywords, after the held-out records."""
        categories = () if self.split == "all" else tuple(self.split)
        samples = samples or self.samples
        return Selection(views, categories, self.held_out, self.limit, by_keyword=self.seed, samples=samples)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that all responses depend on, in addition to the model; an audit that resumes compares them."""
        from safeeraser.model.load import choose_dtype

        return {
            "train_sha256": sha256(self.train_file),
            "val_sha256": sha256(self.val_file),
            "split": self.split,
            "limit": self.limit,
            "skip": self.held_out,
            "samples": self.samples,
            "relearning": self.protocol.model_dump(mode="json"),
            "dtype": str(choose_dtype(self.dtype)).removeprefix("torch."),
            **asdict(self.generation),
        }

    @property
    def judged_by(self) -> dict[str, Any]:
        """The settings that the verdicts depend on, in addition to the responses."""
        return self.judging.record | {"max_failed": self.max_failed, "max_blank": self.max_blank}


def arguments(description: str | None) -> Arguments:
    """The command line of `audit.py`."""
    parser = Arguments(description=description)
    says = f"one or several, with commas between: {', '.join(ACTIONS)} (default: all)"
    parser.add_argument("actions", nargs="?", type=several("action", ACTIONS), default=("all",), help=says)
    add_options(parser, Options)
    group = parser.add_argument_group("judges", FORMS)
    add_options(parser, JudgeWords, Judging, but=("replies", "batch", "dry_run", "price"))
    add_options(group, ScoreOptions, but={each.name for each in fields(ScoreOptions)} - BOUNDS)
    return parser


def read_options(given: Namespace) -> Options:
    """The parsed options, with defaults derived from the adapter for the options that were not given."""
    given.checkpoint_path = adapter = given.checkpoint_path.absolute()
    train_file = given.train_file or Path((trained_settings(adapter) or {}).get("data_path", "dataset/all_train.json"))
    val_file = given.val_file or train_file.with_name("all_val.json")
    if given.seed < 0:
        raise BadInput("--seed must be at least 0")
    judging = make_judging(vars(given), store_shared=True, data=val_file)
    if "replay" in {choice.name for choice in judging.choices.values()}:
        raise BadInput("the judge replay has only recorded replies, and an audit's responses are new; name another")
    known = tuple(name for name, attack in ATTACKS.items() if not attack.control)
    for name in given.attacks or ():
        if name not in known:
            raise BadInput(f"--attacks: no attack '{name}'; {nearest(name, known)}")
    if given.attacks and not {"all", "attacks"} & set(given.actions):
        raise BadInput("--attacks: needs the action attacks, which is not among the actions to run; add it")
    # Imported only here, because torch takes long to load.
    from safeeraser.audit.relearn import read_protocol
    from safeeraser.model.merge import base_of

    model_path = given.model_path or base_of(adapter)
    never_knew = given.never_knew or find_beside(Path(model_path), "never_knew")
    values = {
        "model_path": model_path,
        "tuned": given.tuned or find_beside(adapter, "none+pd"),
        "never_knew": str(never_knew) if never_knew else None,
        "controls": given.controls or adapter.with_name("controls"),
        "train_file": train_file,
        "val_file": val_file,
        "attacks": given.attacks or known,
        "judging": judging,
        "protocol": read_protocol(given.relearn),
    }
    return Options(**options_in(Options, vars(given)) | values)


def find_beside(path: Path, name: str) -> Path | None:
    """The folder called `name` next to `path`; None if there is none, or if it is `path` itself."""
    usual = path.with_name(name)
    return usual if usual.is_dir() and usual != path else None
