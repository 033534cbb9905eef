"""Whether a model's tokenizer has words for the texts that it is to be trained on."""

import logging
import re
from collections.abc import Callable, Iterable
from itertools import chain

from safeeraser.unlearn.views import Item

log = logging.getLogger(__name__)

SHARE = 0.25  # of the words that may be spelled out; a tokenizer of real language spells out hardly any


def note_spelling(tokenize: Callable[[str], list[str]], items: Iterable[Item]) -> None:
    """Warn where many words of the items are letters to the tokenizer: its model was made for other texts.

    Only plain words of four letters and more count: there are scripts in which a token is a letter in any case.
    """
    texts = chain.from_iterable((item.question, item.answer) for item in items)
    words = sorted({word for text in texts for word in re.findall("[A-Za-z]{4,}", text)})
    spelled = [word for word in words if len(tokenize(f" {word}")) >= len(word)]
    if len(spelled) > SHARE * len(words):
        log.warning(
            "note: the model's tokenizer spells %d of the data's %d words letter by letter: it was made for other "
            "texts, and the model can hardly say these",
            len(spelled),
            len(words),
        )
