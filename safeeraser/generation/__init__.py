"""How a model answers questions about pictures: as inference asks them, and as training's probes do."""
