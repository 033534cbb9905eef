"""What stands around a run of unlearning: the model card that it leaves, and the way to the hub if it is to go there.

The rooms for both, `unlearn` and `report`, know nothing of each other.
"""

import logging
from dataclasses import replace

from safeeraser.errors import BadInput
from safeeraser.progress import first_process
from safeeraser.report.hub import ADAPTER, MODEL, again, check_hub, check_place, publish
from safeeraser.report.model_card import CARD, edited, write_card
from safeeraser.unlearn.record import Unlearned
from safeeraser.unlearn.settings import Settings

log = logging.getLogger(__name__)


def check_before(settings: Settings) -> None:
    """Raises `BadInput` if `push_to_hub` could not work: better now than when a night of training is over."""
    if not settings.push_to_hub or not first_process():
        return
    repo = settings.hub_model_id or ""  # it is never empty with push_to_hub
    if not settings.dry_run:
        check_hub(repo, private=settings.hub_private)
        return
    check_place(repo)
    seen = "private" if settings.hub_private else "public"
    sent = ", ".join(MODEL if settings.adapter is None else ADAPTER)
    log.info("to the hub, when the run is finished: %s (%s): %s", repo, seen, sent)


def publish_after(settings: Settings, done: Unlearned | None) -> Unlearned | None:
    """Write the card of a run that is finished, and send both where that is asked for; returns `done`.

    Whatever goes wrong now, the run is whole: that is said, and how to send it again.
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
        command = again(folder, repo, private=private)
        log.error("error: %s; the run is whole in %s, and '%s' sends it", error, folder, command)
        return replace(done, not_sent=str(error))
    return done
