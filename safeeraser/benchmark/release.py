"""Names in the release's own files that differ from this project's, and facts about its models and settings."""

ALIASES = {
    "forget_loss": {"idk": "po", "idkpd": "popd"},
    "model_family": {"llava-v1.5-vicuna": "llava-1.5-7b"},
}
RELEASED_TYPE = "llava"  # the `model_type` in its models' configurations
RELEASED_MODEL = "llava-hf/llava-1.5-7b-hf"  # the base model of an adapter that names none
# Keys of the release's settings file that its code never reads, with their values in that file.
UNREAD = {"eval_while_train": False, "eval_only": False}
