"""`python -m safeeraser.model convert IN OUT`: adapters in their two forms."""

from pathlib import Path

from safeeraser.arguments import Arguments
from safeeraser.errors import command
from safeeraser.model.adapters import convert


@command
def main() -> None:
    """`python -m safeeraser.model convert IN OUT`."""
    parser = Arguments(prog="python -m safeeraser.model", description="Adapters in their two forms.")
    action = parser.add_subparsers(dest="action", required=True).add_parser(
        "convert", help="turn a PEFT folder into the release's checkpoint.pt, or the other way round"
    )
    action.add_argument("source", type=Path, metavar="IN", help="a PEFT folder, a .safetensors or a .pt")
    action.add_argument("target", type=Path, metavar="OUT", help="a file ending in .pt, or a folder to make")
    action.add_argument("--lora_alpha", type=float, default=256, help="of a .pt, which does not say (default: 256)")
    action.add_argument("--model_path", help="the base model to note in a PEFT folder")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target, alpha=arguments.lora_alpha, model_path=arguments.model_path)


if __name__ == "__main__":
    main()
