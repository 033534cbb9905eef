"""For tools that still call it: what is packaged, and what it needs, is in pyproject.toml."""

from setuptools import setup

setup()
