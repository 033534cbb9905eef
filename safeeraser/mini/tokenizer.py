"""The base model's tokenizer.

A word is one token, so that sequences stay short. A word that no text of the mini benchmark contains is split into
shorter pieces, at worst into characters, so that no printable ASCII text has an `<unk>`. Decoding restores the text.
"""

import string

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from safeeraser.benchmark.conversation import IMAGE, SYSTEM_TEXTS, prompt
from safeeraser.mini.questions import answers, questions
from safeeraser.mini.texts import TINY

UNKNOWN, BEGIN, END, PAD = "<unk>", "<s>", "</s>", "<pad>"
SPECIAL = (UNKNOWN, BEGIN, END, PAD, IMAGE)
SPACE = "▁"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A fast tokenizer that knows every word of the tiny mini benchmark, as written and after `str.capitalize()`."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first"),
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Punctuation("isolated"),
        ]
    )
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, SPACE, *string.printable])}
    for piece in _pieces(split):
        vocabulary.setdefault(piece, len(vocabulary))
    # WordPiece takes the longest known piece: the complete word if it is known, else parts of it.
    model = models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix="", max_input_chars_per_word=1000)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def _pieces(split: pre_tokenizers.PreTokenizer) -> list[str]:
    """The words of all texts as they occur in a conversation: after the picture's line break or after a space."""
    texts = [prompt("", who) for who in SYSTEM_TEXTS]
    for question in questions(TINY):
        texts += [f"\n{form}" for form in (question, question.capitalize())]
    for answer in answers(TINY):
        texts += [f" {form}" for form in (answer, answer.capitalize())]
    parts = [part for text in texts for part in text.split(IMAGE)]
    return [piece for part in parts for piece, _ in split.pre_tokenize_str(part)]
