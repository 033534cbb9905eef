"""The part that the mini benchmark's measuring commands share: the command line, loading a model and asking it."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safeeraser.arguments import Arguments, count
from safeeraser.benchmark.adapters import adapter_hash
from safeeraser.benchmark.files import make_room_for, write_json
from safeeraser.benchmark.pictures import find_picture
from safeeraser.errors import BadInput

if TYPE_CHECKING:
    from safeeraser.model.vlm import VLM

NEW_TOKENS = 40


class Asked(NamedTuple):
    """A loaded model, its adapter merged if there is one, and the function that asks it."""

    vlm: "VLM"
    checkpoint: str | None  # the adapter's hash; None: no adapter
    ask: Callable[[Sequence[tuple[str, Path | None]]], list[str]]  # takes questions, each with a picture or None


def measure(doc: str | None, data: str, batch_size: int, work: Callable[[Namespace], dict[str, Any]]) -> dict[str, Any]:
    """Read the command line, call `work` with it, write its result to the output file and return it."""
    parser = Arguments(description=doc)
    add = parser.add_argument
    add("--data", type=Path, default=Path(data), help="the mini benchmark (default: %(default)s)")
    add("--model_path", help="the model (default: base_model in --data)")
    add("--checkpoint_path", type=Path, help="the adapter; none: the untouched model")
    add("--output_file", type=Path, required=True, help="where the result goes")
    says = "questions at a time, which in float32 changes no answer (default: %(default)s)"
    add("--batch_size", type=count, default=batch_size, metavar="N", help=says)
    add("--dtype", default="float32", help="float32, bfloat16, float16 or auto (default: %(default)s)")
    says = "allow an adapter that was trained on other weights than that model's"
    add("--allow_other_base", action="store_true", help=says)
    given = parser.parse_args()
    make_room_for(given.output_file)
    given.model_path = given.model_path or str(given.data / "base_model")
    result = work(given)
    write_json(given.output_file, result)
    return result


def picture_of(file: Path, number: int, image_path: str) -> Path:
    """Return the path of a record's picture. Raises `BadInput` if the picture is missing."""
    if (picture := find_picture(image_path, file)) is None:
        raise BadInput(f"{file}: record {number}, image_path: picture {image_path} not found")
    return picture


def load(given: Namespace) -> Asked:
    """Load the model that the command line names. It answers greedily; if it cannot answer, the answer is empty.

    Raises:
        BadInput: the model cannot be loaded, or the adapter was trained on another base model.
    """
    # Imported here, because torch takes seconds to load.
    from safeeraser.generation.sampling import Generation
    from safeeraser.infer.engine import Engine
    from safeeraser.infer.requests import Request
    from safeeraser.model.lineage import check_base, fingerprint
    from safeeraser.model.merge import load_merged
    from safeeraser.processes import Processes

    adapter = given.checkpoint_path
    if adapter:
        check_base(adapter, fingerprint(given.model_path), allowed=given.allow_other_base)
    vlm = load_merged(given.model_path, adapter, dtype=given.dtype, lora_alpha=1.0, device=Processes().device)
    engine = Engine(vlm, Generation(greedy=True, max_new_tokens=NEW_TOKENS), given.batch_size)

    def ask(asked: Sequence[tuple[str, Path | None]]) -> list[str]:
        requests = [Request(number, ("answer",), picture, question) for number, (question, picture) in enumerate(asked)]
        said = {request.record: text for batch in engine.answer(requests) for request, text in batch}
        return [text if isinstance(text := said[number], str) else "" for number in range(len(asked))]

    return Asked(vlm, adapter_hash(adapter), ask)
