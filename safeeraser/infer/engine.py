"""The built-in engine: answers requests with a model in this process."""

import logging
from collections.abc import Iterator, Sequence

from accelerate.utils.memory import clear_device_cache

from safeeraser.errors import BadInput
from safeeraser.generation import DECODERS, Answering, Asked
from safeeraser.generation.ahead import of_worker
from safeeraser.generation.sampling import Generation
from safeeraser.infer.memory import out_of_memory, rows_that_fit
from safeeraser.infer.requests import Request, Unanswered, show, size_of
from safeeraser.model import VLM

log = logging.getLogger(__name__)

MOST = 256  # responses at a time, where the batch size is to be found; more are hardly quicker
PICTURES = 50  # for a process that prepares them; fewer are soon prepared, and a process takes time to start
NOT_FINITE = Unanswered("the model's output is not finite; in another --dtype it may be")


class Engine:
    """A model that answers requests. Which requests share a batch changes what is drawn for each by rounding alone.

    Args:
        batch_size: responses at a time; None to find it: as many as should fit, a quarter fewer whenever they do not.
        found: the size that an earlier sitting of the same run came to, where it is to be found.
        workers: processes that prepare pictures, at most.
        fixed: see `Answering`.

    Where the memory was full, responses that had ended are kept, and those under way are drawn anew, the same as in any
    other batch. To go on from their tokens they would have to be read as prompts are, all at once, which rounds
    otherwise than one by one did; and no step down costs more than the one batch that was under way.
    """

    def __init__(
        self,
        vlm: VLM,
        generation: Generation,
        batch_size: int | None = None,
        found: int | None = None,
        workers: int = 0,
        fixed: bool = False,
    ) -> None:
        vlm.model.eval()
        self.vlm, self.generation, self.workers, self.fixed = vlm, generation, workers, fixed
        self.given, self.found, self.batch_size = batch_size is not None, found, batch_size or MOST

    def answer(self, requests: Sequence[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        """Answer all requests; yields those that have just been answered, with their responses.

        Raises:
            BadInput: the memory does not suffice.
        """
        left = {request.key: request for request in requests}
        if left and not self.given:
            clear_device_cache(garbage_collection=True)  # what merging an adapter took is free again
            fit = self.found or rows_that_fit(self.vlm, requests, self.generation.max_new_tokens)
            self.batch_size = min(self.batch_size, fit)
        log.info("%d responses at a time", self.batch_size)
        while left:
            try:
                for finished in self._attempt(list(left.values())):
                    yield finished
                    for request, _ in finished:
                        del left[request.key]
            except RuntimeError as error:
                if reason := of_worker(error):
                    log.warning("%s; going on without processes that prepare pictures", reason)
                    self.workers = 0
                elif out_of_memory(error):
                    self._reduce()
                else:
                    raise
            # Not before the error is let go, since it holds what was computed last.
            if left:
                clear_device_cache(garbage_collection=True)

    def _attempt(self, requests: list[Request]) -> Iterator[list[tuple[Request, str | Unanswered]]]:
        workers = min(self.workers, len({request.picture for request in requests}) // PICTURES)
        decoder = DECODERS[self.vlm.decoder](
            *(self.vlm, self.generation, self.batch_size),
            show=show,
            size=size_of,
            workers=workers,
            fixed=self.fixed,
        )
        for ended in decoder.answer([_asked(each) for each in requests]):
            said = [(requests[number], text) for number, text in ended]
            yield [(each, self._silence(each, decoder) if text is None else text) for each, text in said]

    def _silence(self, request: Request, decoder: Answering) -> Unanswered:
        (prompt,) = decoder.prompts([_asked(request)])
        if decoder.fits(prompt):
            return NOT_FINITE
        return Unanswered(f"its prompt takes {len(prompt)} tokens, and the model's context holds {decoder.context}")

    def _reduce(self) -> None:
        if self.batch_size == 1:
            raise BadInput("out of memory with one response at a time; a smaller dtype, or a larger device, may do")
        if self.given:
            raise BadInput(f"out of memory at --batch_size {self.batch_size}; --batch_size auto finds one that fits")
        self.batch_size = self.batch_size * 3 // 4
        log.warning("out of memory: going on with --batch_size %d", self.batch_size)


def _asked(request: Request) -> Asked:
    return Asked(request.picture, request.question, request.key, system=request.system)
