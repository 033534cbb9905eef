"""Install with `pip install -e .`; the extras are what one room or one purpose needs."""

from setuptools import find_packages, setup

# The oldest that have what the code calls, so that other packages can stand beside this one; in the order of
# requirements.txt, which pins the versions that are tested.
NEEDS = ["torch>=2.6", "transformers>=5.4", "peft>=0.18", "accelerate>=1.10", "huggingface_hub>=1.5"]
NEEDS += ["safetensors>=0.4.3", "tokenizers>=0.22", "hydra-core>=1.3", "omegaconf>=2.3", "PyYAML>=6.0", "openai>=2.0"]
NEEDS += ["rouge-score>=0.1.2", "pillow>=11.0", "pydantic>=2.11", "numpy>=2.0", "scipy>=1.15", "scikit-learn>=1.6"]
NEEDS += ["matplotlib>=3.9", "jinja2>=3.1", "MarkupSafe>=2.1", "rich>=13.0", "psutil>=5.9"]
TRAIN = ["deepspeed==0.19.8", "tensorboard==2.21.0"]
QUANT = ["bitsandbytes==0.50.2"]
# What `transformers serve` needs beside requirements.txt.
SERVING = ["fastapi==0.165.0", "uvicorn==0.54.0", "starlette==1.10.0"]
# By which scripts/reproduce.bash runs its steps, and how it hands them to a cluster.
WORKFLOW = ["snakemake==9.27.1"]
SLURM = ["snakemake-executor-plugin-slurm==2.8.0"]
DOCS = ["mkdocs-material==9.8.2"]  # by which the documents become a site: mkdocs.yml
FAMILIES = ["num2words==0.5.14"]  # what SmolVLM's processor asks for
# pytest 9.2 keeps node ids elsewhere than xdist 3.8 writes a test's group, so that groups would have no effect.
TOOLS = ["pytest==9.1.1", "pytest-xdist==3.8.0", "ruff==0.17.6", "mypy==2.4.1"]
TOOLS += ["wordllama==0.4.0.post1", "selenium==4.51.0"]
TOOLS += ["setuptools==84.2.1"]  # by which a test builds the wheel
TEST = [*TRAIN, *QUANT, *SERVING, *FAMILIES, *WORKFLOW, *SLURM, *TOOLS]

setup(
    name="safeeraser",
    version="0.1.0",
    description="Safety unlearning for multimodal LLMs",
    license="MIT",
    python_requires=">=3.11",
    packages=[*find_packages(include=["safeeraser", "safeeraser.*"]), "safeeraser.config"],
    package_dir={"safeeraser.config": "config"},  # `benchmark.files.CONFIG` finds it there as in a checkout
    py_modules=["eval_all"],
    package_data={
        "safeeraser": ["py.typed", "README.md"],
        "safeeraser.config": ["**/*.yaml", "lmms_tasks/**/*.py"],
        "safeeraser.judge": ["prompts/**/*.j2"],
        "safeeraser.mini": ["language.json", "requirements.txt", "icons/*"],
        "safeeraser.report": ["templates/*", "published.json"],
        "safeeraser.selftest": ["models.yaml"],
        "safeeraser.score": ["cases.jsonl", "templates/*"],
        "safeeraser.specificity": ["requirements.txt"],
    },
    install_requires=NEEDS,
    extras_require={
        "train": TRAIN,
        "quant": QUANT,
        "serving": SERVING,
        "families": FAMILIES,
        "workflow": WORKFLOW,
        "slurm": SLURM,
        "docs": DOCS,
        "flash": ["flash-attn"],
        "wandb": ["wandb"],
        "test": TEST,
    },
)
