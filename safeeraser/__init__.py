"""SafeEraser: safety unlearning for multimodal LLMs, with LoRA, through prompt-decoupled losses."""

__version__ = "0.1.0"
