"""`python -m safeeraser.model convert | merge | copy`: convert an adapter to its other form, merge one into its base
model, or copy a base model alone."""

import logging
from pathlib import Path

from safeeraser.arguments import Arguments, one_of
from safeeraser.benchmark.release import RELEASED_MODEL
from safeeraser.errors import command


def parser() -> Arguments:
    """The command line."""
    from safeeraser.model.load import DTYPES  # imported here, as in `main`, because torch may not be installed

    parser = Arguments(prog="python -m safeeraser.model", description=__doc__.partition(": ")[2])
    actions = parser.add_subparsers(dest="action", required=True)

    def add(name: str, help: str, *, adapter: bool = True) -> Arguments:
        action = actions.add_parser(name, help=help, description=help)
        if adapter:
            alpha = "of a .pt, which does not say (default: 256)"
            action.add_argument("--lora_alpha", type=float, default=256, help=alpha)
        return action

    def add_dtype(action: Arguments) -> None:
        action.add_argument(
            "--dtype",
            type=one_of("dtype", ("auto", *DTYPES)),
            default="auto",
            help=f"dtype of the written weights: auto (the base model's), {', '.join(DTYPES)}; the model is "
            "loaded in it (7B: 14 GB in 16 bits, 28 in 32), but merging always adds in float32 (default: auto)",
        )

    action = add("convert", "turn a PEFT folder into the release's checkpoint.pt, or the other way round")
    action.add_argument("source", type=Path, metavar="IN", help="a PEFT folder, a .safetensors or a .pt")
    action.add_argument("target", type=Path, metavar="OUT", help="a file ending in .pt, or a folder to make")
    action.add_argument("--model_path", help="the base model to note in a PEFT folder")

    action = add("merge", "write the base model with an adapter merged into it, for servers that take no adapter")
    action.add_argument("adapter", type=Path, metavar="ADAPTER", help="a PEFT folder, a .safetensors or a .pt")
    action.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    action.add_argument(
        "--model_path", help=f"the base model (default: the one that a PEFT folder names, else {RELEASED_MODEL})"
    )
    action.add_argument(
        "--allow_other_base", action="store_true", help="allow an adapter that was trained on other weights than these"
    )
    add_dtype(action)

    action = add("copy", "write a base model alone, as merge writes one", adapter=False)
    action.add_argument("model_path", metavar="MODEL", help="the base model")
    action.add_argument("out", type=Path, metavar="OUT", help="the folder to make")
    add_dtype(action)
    return parser


@command
def main() -> None:
    """Convert, merge or copy."""
    from safeeraser.model.merge import copy, merge
    from safeeraser.model.stored import convert

    options = vars(parser().parse_args())
    action = options.pop("action")
    if action == "convert":
        convert(**options)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    copy(**options) if action == "copy" else merge(**options)
    print("done: {out} (pip install -e '.[serving]'; transformers serve {out})".format(**options))


if __name__ == "__main__":
    main()
