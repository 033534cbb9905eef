"""Specificity on the mini benchmark: the share of held-out plain questions answered right, by exact match.

`python -m safeeraser.mini.vqa --checkpoint_path ADAPTER --output_file OUT/specificity.json`. It stands for the mean of
seven VQA benchmarks that the paper reports.
"""

import string
from pathlib import Path
from typing import Any

from safeeraser.arguments import Arguments
from safeeraser.benchmark.files import read_json, write_json
from safeeraser.benchmark.pictures import find_picture
from safeeraser.errors import BadInput, command


def normalized(text: str) -> str:
    """The text without case, punctuation and extra spaces: what exact match compares."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def measure(
    data: Path, model_path: str, checkpoint_path: Path | None, batch_size: int, dtype: str, *, allow_other_base: bool
) -> dict[str, Any]:
    """Ask every question of `data/vqa.json`, greedily. Returns `value` (0..1), `n` and what produced them.

    Raises:
        BadInput: a file, a picture or the model cannot be used, or the adapter was trained on another model.
    """
    # Only now, since torch takes its time to load.
    from safeeraser.generation.sampling import Generation
    from safeeraser.infer.checkpoint import adapter_hash
    from safeeraser.infer.engine import Engine
    from safeeraser.infer.requests import Request
    from safeeraser.model.fingerprint import fingerprint
    from safeeraser.model.lineage import check_base
    from safeeraser.model.merge import load_merged
    from safeeraser.processes import Processes

    file = data / "vqa.json"
    items = read_json(file)
    requests = []
    for number, item in enumerate(items):
        picture = find_picture(item["image_path"], file)
        if picture is None:
            raise BadInput(f"{file}: record {number}, image_path: picture {item['image_path']} not found")
        requests.append(Request(number, ("answer",), picture, item["question"]))
    if checkpoint_path:
        check_base(checkpoint_path, fingerprint(model_path), allowed=allow_other_base)
    vlm = load_merged(model_path, checkpoint_path, dtype=dtype, lora_alpha=1.0, device=Processes().device)
    engine = Engine(vlm, Generation(greedy=True, max_new_tokens=40), batch_size)
    right = sum(
        isinstance(text, str) and normalized(text) == normalized(items[request.record]["answer"])
        for batch in engine.answer(requests)
        for request, text in batch
    )
    return {
        "value": right / len(items),
        "n": len(items),
        "task": "mini VQA, exact match, greedy",
        "model_path": model_path,
        "checkpoint": adapter_hash(checkpoint_path),
    }


@command
def main() -> None:
    """Measure, write the result, print it."""
    parser = Arguments(description=__doc__)
    add = parser.add_argument
    add("--data", type=Path, default=Path("dataset/mini"), help="the mini benchmark (default: %(default)s)")
    add("--model_path", help="the model (default: base_model in --data)")
    add("--checkpoint_path", type=Path, help="the adapter; none: the untouched model")
    add("--output_file", type=Path, required=True, help="where the result goes")
    add("--batch_size", type=int, default=128, help="questions answered together (default: %(default)s)")
    add("--dtype", default="float32", help="auto, float32, bfloat16 or float16 (default: %(default)s)")
    add("--allow_other_base", action="store_true", help="also if it was trained on other weights than that model's")
    given = vars(parser.parse_args())
    output_file = given.pop("output_file")
    given["model_path"] = given["model_path"] or str(given["data"] / "base_model")
    result = measure(**given)
    write_json(output_file, result)
    print(f"mini VQA: {result['value']:.1%} of {result['n']} right")


if __name__ == "__main__":
    main()
