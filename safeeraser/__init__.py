"""SafeEraser: safety unlearning for multimodal LLMs, with LoRA, through prompt-decoupled losses."""

import logging

# On a CPU it warns of a kernel that is not there and would only be faster; here, since PEFT loads it wherever it is.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
