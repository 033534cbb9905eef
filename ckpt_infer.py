"""Answer the benchmark's questions with a model and an adapter: `python ckpt_infer.py --help`."""

import logging
from argparse import Namespace
from pathlib import Path

from safeeraser.arguments import Arguments
from safeeraser.errors import BadInput, command


def parse() -> Namespace:
    """The command line."""
    parser = Arguments(description=__doc__)

    def add(name: str, help: str, **kwargs) -> None:
        shown = "" if kwargs.get("default") in (None, "") else " (default: %(default)s)"
        parser.add_argument(name, help=help + shown, **kwargs)

    add("--eval_file", "the data file whose questions are asked", type=Path, default=Path("dataset/all_val.json"))
    add("--model_path", "a folder, or a name on the Hugging Face hub", default="llava-hf/llava-1.5-7b-hf")
    add("--output_file", "where the predictions go, in the data file's own format", type=Path, required=True)
    add("--checkpoint_path", "a PEFT folder or the release's checkpoint.pt; none: the untouched model", type=Path)
    add("--loss_type", "the adapter's method, recorded; refused if the adapter was trained otherwise", default="")
    add("--batch_size", "responses generated together; it does not change what is drawn", type=int, default=16)
    add("--max_new_tokens", "tokens a response at most", type=int, default=512)
    add("--greedy", "take the likeliest token instead of sampling", action="store_true")
    add("--temperature", "of sampling", type=float, default=1.0)
    add("--top_p", "of sampling: the share of probability drawn from", type=float, default=0.9)
    add("--seed", "of sampling: a response depends on it and on the request alone", type=int, default=233)
    add("--dtype", "auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16", default="auto")
    add("--lora_alpha", "scaling of a checkpoint.pt, which does not say its own", type=float, default=256)
    add("--overwrite", "replace an output file that exists", action="store_true")
    return parser.parse_args()


@command
def main() -> None:
    """Check the command line, then answer."""
    arguments = parse()
    if arguments.batch_size < 1 or arguments.max_new_tokens < 1:
        raise BadInput("--batch_size and --max_new_tokens must be at least 1")
    if arguments.temperature <= 0 or not 0 < arguments.top_p <= 1:
        raise BadInput("--temperature must be above 0 (--greedy for none), and --top_p above 0 and at most 1")
    # Only now, since torch takes its time to load.
    from safeeraser.infer.engine import Generation
    from safeeraser.infer.run import infer

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    infer(
        eval_file=arguments.eval_file,
        model_path=arguments.model_path,
        output_file=arguments.output_file,
        checkpoint_path=arguments.checkpoint_path,
        loss_type=arguments.loss_type,
        generation=Generation(
            greedy=arguments.greedy,
            temperature=arguments.temperature,
            top_p=arguments.top_p,
            max_new_tokens=arguments.max_new_tokens,
            seed=arguments.seed,
        ),
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        lora_alpha=arguments.lora_alpha,
        overwrite=arguments.overwrite,
    )


if __name__ == "__main__":
    main()
