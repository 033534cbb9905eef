"""Vision-language models and their adapters. What a family calls its parts is data (config/model_family/).

load                   a model's configuration, what prepares its input, its weights
turns, preprocess      turns into rows, rows into a batch
vlm, states, vision    a loaded model: logits, its layers' states, what it makes of pictures
llava                  LLaVA-1.5 as the release has it
lora, projector        what is trained on a model
stored, merge          adapters in their two forms, and in their model's weights
lineage                which base a model is, and which runs it comes from
rounding               weights as a quantized model holds them
"""
