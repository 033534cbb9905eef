"""Answer the benchmark's questions with a model and an adapter: `python ckpt_infer.py --help`."""

import argparse
import logging
from pathlib import Path

from safeeraser.errors import BadInput, command


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--eval_file", type=Path, default="dataset/all_val.json", help="the data file whose questions are asked")
    add("--model_path", default="llava-hf/llava-1.5-7b-hf", help="a folder, or a name on the Hugging Face hub")
    add("--output_file", type=Path, required=True, help="where the predictions go, in the data file's own format")
    add("--checkpoint_path", type=Path, help="a PEFT folder or the release's checkpoint.pt; none: the untouched model")
    add("--loss_type", default="", help="the adapter's method, recorded; refused if the adapter was trained otherwise")
    add("--batch_size", type=int, default=16, help="responses generated together; it does not change what is drawn")
    add("--max_new_tokens", type=int, default=512, help="tokens a response at most")
    add("--greedy", action="store_true", help="take the likeliest token instead of sampling")
    add("--temperature", type=float, default=1.0, help="of sampling")
    add("--top_p", type=float, default=0.9, help="of sampling: the share of probability drawn from")
    add("--seed", type=int, default=233, help="of sampling: a response depends on it and on the request alone")
    add("--dtype", default="auto", help="auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16")
    add("--lora_alpha", type=float, default=256, help="scaling of a checkpoint.pt, which does not say its own")
    add("--overwrite", action="store_true", help="replace an output file that exists")
    return parser.parse_args()


@command
def main() -> None:
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
