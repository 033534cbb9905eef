"""Vision-language models and their adapters. Config files in config/model_family/ name the parts of each family.

load                   a model's configuration, its preprocessor and its weights
turns, preprocess      turns of a conversation, as rows and as a batch
vlm, states, vision    a loaded model: its logits, its layers' hidden states, its picture features
llava                  LLaVA-1.5 in the release's form
lora, projector        the trained parts of a model
stored, merge          adapters in their two stored forms, and merged into their base model
lineage                which base a model is, and which runs it comes from
rounding               weights rounded as in a quantized model
"""
