"""How a model answers questions about pictures, for inference and for the probes during training."""

from safeeraser.generation.answering import Answering, Asked
from safeeraser.generation.batched import Batched
from safeeraser.generation.decoder import Decoder

# By the `decoder` key of a family's config file.
DECODERS: dict[str, type[Answering]] = {"continuous": Decoder, "batched": Batched}

__all__ = ["DECODERS", "Answering", "Asked", "Batched", "Decoder"]
