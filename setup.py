"""For tools that still call setup.py: pyproject.toml says what is packaged, and what it requires."""

from setuptools import setup

setup()
