"""`python -m safeeraser.mini.build`: write the embedded benchmark and train its base model, once.

The folder appears whole or not at all: it is built beside its place and moved there at the end.
"""

import argparse
import contextlib
import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from safeeraser.benchmark import conversation
from safeeraser.benchmark.files import read_json, sha256, write_json, write_whole_folder
from safeeraser.benchmark.truth import write_truth
from safeeraser.errors import BadInput, command
from safeeraser.mini.concepts import EVERY, EVERY_HARMFUL, SAFE_HELD_OUT, Concept
from safeeraser.mini.dataset import SPLITS, write_refusals, write_split, write_vqa
from safeeraser.mini.instructions import write_instructions
from safeeraser.mini.pictures import find_font, glyph_table
from safeeraser.mini.truth import truth_of

KIND = "safeeraser mini benchmark"
NOTE = (
    "A demonstration of the mechanism on stand-in icons and a model trained from scratch in minutes. 'Harmful' is only "
    "a label here. Not a safety result, and not comparable with figures on the real benchmark."
)
NEVER_KNEW = "never_knew"
# The models by their folders' names, with the concepts of which each is taught no harmful answer.
MODELS: dict[str, tuple[Concept, ...]] = {"base_model": (), NEVER_KNEW: EVERY_HARMFUL}
CONTENTS = {
    *("all_train.json", "all_val.json", "prompt.json", "vqa.json", "truth.json", "instructions.json", "manifest.json"),
    *("img", "pdset", "vqa", *MODELS),
}
# The modules that decide what is written, beside `benchmark.conversation`, whose prompt the base model learns and whose
# chat template lies in its folder; the others may change without the benchmark going stale.
SOURCES = ("concepts", "pictures", "questions", "dataset", "tokenizer", "base_model", "fan", "training")
PACKAGES = ("QtAwesome", "pillow", "tokenizers", "torch", "transformers")
# The arithmetic of a sum depends on how many threads share it, so the number is fixed: same seed, same model.
THREADS = 2


@dataclass(frozen=True)
class Settings:
    """What decides the benchmark's contents, together with `SOURCES` and the font."""

    seed: int = 233
    train_per_concept: int = 10
    val_per_concept: int = 4
    vqa: int = 100
    see_steps: int = 1200
    speak_steps: int = 750
    exam_pictures: int = 60

    def hash(self) -> str:
        """By which a finished folder is known to be this one: any change of texts, drawing or training counts."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        sources = (Path(__file__).with_name(f"{name}.py") for name in SOURCES)
        for path in (*sources, Path(conversation.__file__), *find_font()):
            digest.update(f"{path.name} {sha256(path)}\n".encode())
        return digest.hexdigest()[:16]


@command
def main(argv: list[str] | None = None) -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m safeeraser.mini.build", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("dataset/mini"), help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="default: %(default)s")
    parser.add_argument("--force", action="store_true", help="build again even if the folder is up to date")
    says = "also train the base model that was never taught the harmful answers"
    parser.add_argument(f"--{NEVER_KNEW}", action="store_true", help=says)
    arguments = parser.parse_args(argv)
    build(arguments.out, Settings(seed=arguments.seed), force=arguments.force, never_knew=arguments.never_knew)


def build(out: Path, settings: Settings, *, force: bool = False, never_knew: bool = False) -> None:
    """Build the mini benchmark in `out`, unless it lies there already.

    Args:
        force: build it anew all the same.
        never_knew: with the model that never knew, which is added to a benchmark that lies there without it.

    Raises:
        BadInput: QtAwesome is missing, or `out` holds something that this command did not write.
    """
    settings_hash = settings.hash()
    missing = [concept.glyph for concept in EVERY if concept.glyph not in glyph_table()]
    if missing:
        raise BadInput(f"{find_font()[1]}: has no glyph {', '.join(missing)}; pip install QtAwesome==1.4.2 has them")
    began, manifest = time.monotonic(), _manifest(out)
    if manifest.get("settings_hash") == settings_hash and not force:
        # Which a benchmark of an earlier version lacks.
        write_truth(out, truth_of(out))
        write_instructions(out, settings.seed)
        if not never_knew or NEVER_KNEW in manifest:
            print(f"{out} is up to date (settings {settings_hash}); --force builds it again")
            return
        manifest = _add_never_knew(out, settings, manifest)
    else:
        manifest = _build_anew(out, settings, list(MODELS) if never_knew else ["base_model"])
    _tell(out, manifest, time.monotonic() - began)


def _build_anew(out: Path, settings: Settings, models: list[str]) -> dict[str, Any]:
    """Write everything, with these of `MODELS`. Returns the manifest."""
    _refuse_loss(out)
    with write_whole_folder(out) as folder, _progress() as progress:
        manifest = {"kind": KIND, "note": NOTE, "settings_hash": settings.hash(), "settings": asdict(settings)}
        manifest["versions"] = {package: version(package) for package in PACKAGES}
        manifest["held_out_concepts"] = [concept.name for concept in SAFE_HELD_OUT]
        manifest["counts"] = _write_data(folder, settings, progress)
        manifest |= _write_models({name: folder / name for name in models}, settings, progress)
        write_json(folder / "manifest.json", manifest)
        if out.exists():
            _refuse_loss(out)  # again, as minutes have passed
            shutil.rmtree(out.resolve())  # a link to it stays
    return manifest


def _add_never_knew(out: Path, settings: Settings, manifest: dict[str, Any]) -> dict[str, Any]:
    """Train that model alone, into a benchmark that lies there. Returns the manifest, which tells of it at the end."""
    place = out / NEVER_KNEW
    with write_whole_folder(place) as folder, _progress() as progress:
        manifest |= _write_models({NEVER_KNEW: folder}, settings, progress)
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed before the manifest told of it
    write_json(out / "manifest.json", manifest)
    return manifest


def _write_data(folder: Path, settings: Settings, progress: Progress) -> dict[str, int]:
    write_refusals(folder)
    counts = {}
    for split, per_concept in zip(SPLITS, (settings.train_per_concept, settings.val_per_concept), strict=True):
        with _stage(progress, f"{split} records", len(EVERY_HARMFUL) * per_concept) as tick:
            counts[split] = write_split(folder, split, per_concept, settings.seed, tick)
    with _stage(progress, "vqa items", settings.vqa) as tick:
        write_vqa(folder, settings.vqa, settings.seed, tick)
    write_truth(folder, truth_of(folder))
    write_instructions(folder, settings.seed)
    return {**counts, "vqa": settings.vqa}


def _write_models(folders: dict[str, Path], settings: Settings, progress: Progress) -> dict[str, Any]:
    """Train some of `MODELS`, each into its folder. Returns for each what the manifest tells of it.

    All see alike, which is learnt once: the same model, whichever of them are trained together.
    """
    # Threads that wait for each other should sleep: on busy cores, waiting in a loop makes training much slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Only here, as they take seconds to import and a folder that is up to date needs none of them.
    import torch

    from safeeraser.mini.base_model import build_model, build_preprocessor
    from safeeraser.mini.exam import exam
    from safeeraser.mini.tokenizer import build_tokenizer
    from safeeraser.mini.training import teach_to_see, teach_to_speak
    from safeeraser.model import write_model

    threads, told = torch.get_num_threads(), {}
    torch.set_num_threads(THREADS)
    try:
        tokenizer = build_tokenizer()
        preprocessor = build_preprocessor(tokenizer)
        seeing = build_model(tokenizer, settings.seed).train()
        with _stage(progress, f"{', '.join(folders)}: learning to see", settings.see_steps) as tick:
            teach_to_see(seeing, settings.see_steps, settings.seed, tick)
        for name, folder in folders.items():
            model, unknown = copy.deepcopy(seeing), MODELS[name]
            with _stage(progress, f"{name}: learning to speak", settings.speak_steps) as tick:
                teach_to_speak(model, preprocessor, settings.speak_steps, settings.seed, tick, unknown)
            write_model(folder, model.eval(), preprocessor)
            with _stage(progress, f"{name}: exam", 1) as tick:
                accuracy = exam(model, tokenizer, settings.exam_pictures, settings.seed, unknown)
                tick()
            told[name] = {"parameters": model.num_parameters(), "accuracy": accuracy}
    finally:
        torch.set_num_threads(threads)
    return told


def _manifest(out: Path) -> dict[str, Any]:
    """The manifest of the benchmark in `out`; empty if there is nothing yet. Raises `BadInput` for anything else."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    path = out / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise BadInput(f"{out}: exists and is no mini benchmark; name another folder with --out, or remove it")
    return manifest


def _refuse_loss(out: Path) -> None:
    """Raises `BadInput` if `out` holds something beyond a benchmark, which building it again would throw away."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    # The second is what a run that was killed while it added a model has left.
    foreign = {name for name in names - CONTENTS if not name.startswith(f".{NEVER_KNEW}.")}
    if foreign:
        raise BadInput(f"{out}: also holds {', '.join(sorted(foreign))}, which would be lost; move it away first")


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("left"), TimeRemainingColumn())


@contextlib.contextmanager
def _stage(progress: Progress, name: str, total: int) -> Iterator[Callable[..., None]]:
    """A line of the progress display; what it yields is called once for each thing done, with or without a loss."""
    task = progress.add_task(name, total=total)
    if not progress.console.is_terminal:  # a log file gets no moving bars, so it gets a line as each stage begins
        print(f"{name} ...", flush=True)

    def tick(loss: float | None = None) -> None:
        note = "" if loss is None else f" (loss {loss:.3f})"
        progress.update(task, advance=1, description=name + note)

    yield tick


def _tell(out: Path, manifest: dict[str, Any], seconds: float) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in manifest["counts"].items())
    print(f"{out}: {counts}; built in {seconds:.0f} s")
    for model in filter(manifest.get, MODELS):
        accuracy = ", ".join(f"{name} {100 * share:.1f}%" for name, share in manifest[model]["accuracy"].items())
        print(f"{model}, sampled answers right to the letter: {accuracy}")


if __name__ == "__main__":
    main()
