"""Send an adapter, or a model trained without one, and its card to the Hugging Face hub, and never anything else.

`ADAPTER` and `MODEL` list the files that may be sent. All others, such as predictions, verdicts, plans and logs, stay.
Only the hub's client handles the token (HF_TOKEN, or its login). The token is never written to a file, log or error;
neither is any error text from a server, because it may contain the token.
"""

import json
import logging
import sys
import time
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from huggingface_hub.utils import disable_progress_bars, httpx, validate_repo_id

from safeeraser.benchmark.adapters import ADAPTER_FILES, run_of
from safeeraser.benchmark.files import read_json
from safeeraser.errors import BadInput
from safeeraser.report.model_card import CARD, base_name, card, edited, write_card

log = logging.getLogger(__name__)
logging.getLogger(httpx.__name__).setLevel(logging.WARNING)  # else each request is logged

ADAPTER = (ADAPTER_FILES[0], "adapter_config.json", CARD)
MODEL = (
    *("model.safetensors", "model-[0-9]*-of-[0-9]*.safetensors", "model.safetensors.index.json"),
    *("config.json", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
    CARD,
)
NAMES_OF_BASE = ("base_model_name_or_path", "_name_or_path", "name_or_path")  # the keys of PEFT and transformers
WAITS = (1, 5)  # seconds before each retry if the hub is in trouble; its client does not retry a commit
REFUSED = {401: "the token is not taken", 403: "the token may not write there", 404: "there is no such place"}


def check_place(repo: str) -> None:
    """Check, without asking the hub, whether something could be sent to `repo`.

    Raises `BadInput` if `repo` is no valid name of a repository, or there is no token.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise BadInput(f"hub_model_id={repo}: {str(error).splitlines()[0]}") from None
    if "/" not in repo:
        raise BadInput(f"hub_model_id={repo}: must be OWNER/NAME, as the hub names it")
    if get_token() is None:
        raise BadInput("push_to_hub: no token for the hub; set HF_TOKEN in the environment, or run 'hf auth login'")


def publish(folder: Path, repo: str, *, private: bool, overwrite: bool = False) -> str:
    """Write a finished run's card, unless a person edited it, and send it with the weights; return their URL.

    Other files that are already in the repository stay.

    Raises:
        BadInput: the run cannot be sent, `repo` is public despite `private`, or the hub cannot be reached or refuses.
    """
    if edited(folder / CARD) and not overwrite:
        card(folder)  # raises `BadInput` if the run is not finished
        log.warning("note: %s was edited, and is sent as it is", folder / CARD)
    else:
        write_card(folder, repo=repo, overwrite=overwrite)
    check_place(repo)
    if not sys.stderr.isatty():
        disable_progress_bars()  # they are noise in a log file
    waits = list(WAITS)
    while True:
        try:
            return _send(folder, repo, private)
        except BadInput:
            raise
        except Exception as error:  # from the client, HTTP, or the protocols for large files
            status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
            in_trouble = isinstance(error, httpx.TransportError) or status >= 500  # a retry may help
            if not waits or not in_trouble:
                raise BadInput(f"push_to_hub: {repo}: {_reason(error)}") from None
            time.sleep(waits.pop(0))


def _send(folder: Path, repo: str, private: bool) -> str:
    api = HfApi()
    url = api.create_repo(repo, private=private, exist_ok=True)
    if private and not api.model_info(repo).private:
        raise BadInput(f"push_to_hub: {repo} is public; hub_private=false (or --public) sends it there all the same")
    operations = [CommitOperationAdd(path.name, _content(path)) for path in files_to_send(folder)]
    api.create_commit(repo, operations, commit_message="An unlearned model, by safeeraser")
    return str(url)


def files_to_send(folder: Path) -> list[Path]:
    """The files in a run's folder that are sent to the hub."""
    names = ADAPTER if (folder / ADAPTER_FILES[0]).is_file() else MODEL
    return sorted(path for name in names for path in folder.glob(name) if path.is_file())


def _content(path: Path) -> Path | bytes:
    """The file to send; in a configuration, the base model's name on the hub (or null) replaces its local folder."""
    if not path.name.endswith("config.json"):
        return path
    base = base_name(run_of(path.parent))
    text = json.dumps(read_json(path))  # the hook is called for each object, however deep
    content = json.loads(text, object_hook=lambda of: of | {key: base for key in NAMES_OF_BASE if key in of})
    return json.dumps(content, indent=2, ensure_ascii=False).encode()


def _reason(error: Exception) -> str:
    """One line that says what went wrong, without any text from the server, which may contain the token."""
    if type(error) is RuntimeError and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the error that stopped the upload of a large file
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so that the hub is not asked"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        why = REFUSED.get(status, "the hub is in trouble" if status >= 500 else "the hub refuses")
        return f"{why} (HTTP {status})"
    if isinstance(error, (OSError, httpx.HTTPError)):
        return f"{constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    return f"it cannot be sent ({type(error).__name__})"
