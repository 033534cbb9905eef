"""The steps around an unlearning run: writing its model card and, if asked for, sending run and card to the hub.

They are here because the subpackages `unlearn` and `report` do not import each other.
"""

import logging
from dataclasses import replace

from safeeraser.errors import BadInput
from safeeraser.progress import first_process
from safeeraser.report.hub import ADAPTER, MODEL, check_place, publish
from safeeraser.report.model_card import CARD, edited, write_card
from safeeraser.unlearn.config.settings import Settings
from safeeraser.unlearn.run import Unlearned, forget

log = logging.getLogger(__name__)


def unlearn_and_publish(settings: Settings) -> Unlearned | None:
    """Unlearn, write the run's card, and send both if that is asked for. Returns and raises as `unlearn` does.

    Raises:
        BadInput: also if `push_to_hub` cannot work, where this can be known without asking the hub.
    """
    if settings.push_to_hub and first_process():
        repo = settings.hub_model_id or ""  # it is never empty with push_to_hub
        check_place(repo)  # report a mistake now, not after a night of training
        if settings.dry_run:
            seen, sent = "private" if settings.hub_private else "public", MODEL if settings.adapter is None else ADAPTER
            log.info("the finished run will be sent to the hub: %s (%s): %s", repo, seen, ", ".join(sent))
    return publish_after(settings, forget(settings))


def publish_after(settings: Settings, done: Unlearned | None) -> Unlearned | None:
    """Write the card of a finished run, and send both if that is asked for; returns `done`.

    A failure here leaves the run complete: the log says what failed and, for the hub, how to send the run again.
    """
    if done is None or not settings.save_model or "finished" not in done.record or not first_process():
        return done
    folder, repo, private = done.save_dir, settings.hub_model_id or "", settings.hub_private
    try:
        if settings.push_to_hub:
            log.info("sent: %s", publish(folder, repo, private=private))
        elif not edited(folder / CARD):
            write_card(folder)
    except BadInput as error:
        if not settings.push_to_hub:
            log.warning("note: no model card: %s", error)
            return done
        again = f"python -m safeeraser.report {folder} --model_card --push_to_hub {repo}{' --public' * (not private)}"
        log.error("error: %s; the run is complete in %s; send it with '%s'", error, folder, again)
        return replace(done, not_sent=str(error))
    return done
