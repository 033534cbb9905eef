"""The embedded benchmark: pictures, texts and a base model small enough to build and unlearn on two CPU cores.

It shows the mechanism: forgetting, over-forgetting, and what prompt decouple repairs. It measures no model's safety.
"""
