"""The built-in engine: answers requests with a model in this process."""

import logging
from collections.abc import Iterator, Sequence

import psutil  # accelerate brings it
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from transformers import LlavaForConditionalGeneration

from safeeraser.errors import BadInput
from safeeraser.generation.decoder import Asked, Decoder, encode_question
from safeeraser.generation.sampling import Generation
from safeeraser.infer.requests import Request, Unanswered, show
from safeeraser.model import Preprocessor

log = logging.getLogger(__name__)

AUTO = 256  # responses at a time to begin with, where the batch size is to be found
NOT_FINITE = Unanswered("the model's output is not finite; in another --dtype it may be")


class Engine:
    """A model that answers requests. Which requests share a batch does not change what is drawn for each.

    Args:
        batch_size: responses at a time; None to find it: it is halved whenever the memory does not suffice.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        preprocessor: Preprocessor,
        generation: Generation,
        batch_size: int | None = None,
    ) -> None:
        self.model, self.preprocessor, self.generation = model.eval(), preprocessor, generation
        self.found, self.batch_size = batch_size is None, batch_size or self._most()

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        """Answer all requests; yields those that have just been answered, with their responses.

        Raises:
            BadInput: the memory does not suffice.
        """
        left = {request.key: request for request in requests}
        while left:
            try:
                for finished in self._attempt(list(left.values())):
                    yield finished
                    for request, _ in finished:
                        del left[request.key]
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                self._halve()
            # Not before the error is let go, since it holds what was computed last.
            if left:
                clear_device_cache(garbage_collection=True)

    def _attempt(self, requests: list[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        decoder = Decoder(self.model, self.preprocessor, self.generation, self.batch_size, show=show)
        for ended in decoder.answer([Asked(each.picture, each.question, each.key) for each in requests]):
            said = [(requests[number], text) for number, text in ended]
            yield [(each, self._silence(each, decoder) if text is None else text) for each, text in said]

    def _silence(self, request: Request, decoder: Decoder) -> Unanswered:
        tokens = len(encode_question(self.preprocessor, request.question, picture=request.picture is not None))
        if tokens < decoder.context:
            return NOT_FINITE
        return Unanswered(f"its prompt takes {tokens} tokens, and the model's context holds {decoder.context}")

    def _most(self) -> int:
        """Where to begin. A GPU says when its memory is full; on a CPU the system may end the process instead."""
        if self.model.device.type != "cpu":
            return AUTO
        text = self.model.config.text_config
        width = text.num_key_value_heads * (text.hidden_size // text.num_attention_heads) * self.model.dtype.itemsize
        tokens = self.preprocessor.image_length + self.generation.max_new_tokens
        fit = psutil.virtual_memory().available // (4 * 2 * text.num_hidden_layers * width * tokens)
        return max(1, min(AUTO, fit))

    def _halve(self) -> None:
        if self.batch_size == 1:
            raise BadInput("out of memory with one response at a time; a smaller dtype, or a larger device, may do")
        if not self.found:
            raise BadInput(f"out of memory at --batch_size {self.batch_size}; --batch_size auto finds one that fits")
        self.batch_size //= 2
        log.warning("out of memory: going on with --batch_size %d", self.batch_size)
