"""Install with `pip install -e .`; the extras are what one room or one purpose needs."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
PINS = [line.strip() for line in (HERE / "requirements.txt").read_text().splitlines() if line[:1] not in ("#", "")]

TRAIN = ["deepspeed==0.19.8", "tensorboard==2.21.0"]
QUANT = ["bitsandbytes==0.50.2"]
# What `transformers serve` needs beside requirements.txt.
SERVING = ["fastapi==0.165.0", "uvicorn==0.54.0", "starlette==1.10.0"]
FAMILIES = ["num2words==0.5.14"]  # what SmolVLM's processor asks for
# pytest 9.2 keeps node ids elsewhere than xdist 3.8 writes a test's group, so that groups would have no effect.
TOOLS = ["pytest==9.1.1", "pytest-xdist==3.8.0", "ruff==0.17.6", "mypy==2.4.1"]
TOOLS += ["wordllama==0.4.0.post1", "selenium==4.51.0"]
TOOLS += ["setuptools==84.2.1"]  # by which a test builds the wheel
TEST = [*TRAIN, *QUANT, *SERVING, *FAMILIES, *TOOLS]

setup(
    name="safeeraser",
    version="0.1.0",
    description="Safety unlearning for multimodal LLMs",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["safeeraser", "safeeraser.*"]), "safeeraser.config"],
    package_dir={"safeeraser.config": "config"},  # `benchmark.files.CONFIG` finds it there as in a checkout
    py_modules=["eval_all"],
    package_data={
        "safeeraser": ["py.typed"],
        "safeeraser.config": ["**/*.yaml", "lmms_tasks/**/*.py"],
        "safeeraser.judge": ["cases.jsonl", "prices.json", "prompts/**/*.j2"],
        "safeeraser.mini": ["language.json", "requirements.txt"],
        "safeeraser.report": ["templates/*", "published.json"],
        "safeeraser.score": ["templates/*"],
        "safeeraser.specificity": ["requirements.txt"],
    },
    install_requires=PINS,
    extras_require={
        "train": TRAIN,
        "quant": QUANT,
        "serving": SERVING,
        "families": FAMILIES,
        "flash": ["flash-attn"],
        "wandb": ["wandb"],
        "test": TEST,
    },
)
