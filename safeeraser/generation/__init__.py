"""How a model answers questions about pictures: as inference asks them, and as training's probes do."""

from safeeraser.generation.answering import Answering, Asked
from safeeraser.generation.batched import Batched
from safeeraser.generation.decoder import Decoder

# By what a family's page says under `decoder`.
DECODERS: dict[str, type[Answering]] = {"continuous": Decoder, "batched": Batched}

__all__ = ["DECODERS", "Answering", "Asked", "Batched", "Decoder"]
