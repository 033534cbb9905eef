"""What the release's own files call otherwise than this project, by the kind of name."""

ALIASES = {
    "forget_loss": {"idk": "po", "idkpd": "popd"},
    "model_family": {"llava-v1.5-vicuna": "llava-1.5-7b"},
}
RELEASED_TYPE = "llava"  # what the configurations of its models say
RELEASED_MODEL = "llava-hf/llava-1.5-7b-hf"  # the base of an adapter that names none
# Keys of its settings file that its code never reads, with the value that its file gives them.
UNREAD = {"eval_while_train": False, "eval_only": False}
