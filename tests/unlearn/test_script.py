"""scripts/forget_lora.bash: which engine it takes on which machine."""

import os
import subprocess

import pytest
from helpers import ROOT

TELLS = '#!/bin/sh\necho "$(basename "$0") $*"\n'  # in place of what the script starts
ALONE, SHARED = "config/accelerate/one_gpu.yaml", "config/accelerate_config.yaml"


@pytest.fixture
def engine(tmp_path):
    """The engine that the script takes, told alike to the dry run and to the launcher."""
    for name in ("python", "accelerate", "nvidia-smi"):
        (tmp_path / name).write_text(TELLS if name != "nvidia-smi" else "#!/bin/sh\nexit 9\n")
        (tmp_path / name).chmod(0o755)

    def taken(**variables):
        env = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", **variables}
        script = ["bash", ROOT / "scripts" / "forget_lora.bash", "seed=1"]
        done = subprocess.run(script, env=env, capture_output=True, text=True, check=True)
        dry, launched = done.stdout.splitlines()
        name = dry.rpartition("engine=")[2]
        page = "forget.py --config-name forget_lora.yaml seed=1"
        assert dry == f"python {page} dry_run=true engine={name}"
        assert launched == f"accelerate launch --config_file {name} {page}"
        return name

    return taken


def test_one_process_where_there_is_nothing_to_share_among(engine, tmp_path):
    assert engine() == engine(CUDA_VISIBLE_DEVICES="") == engine(CUDA_VISIBLE_DEVICES="3") == ALONE
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\n")
    assert engine() == ALONE


def test_the_default_engine_on_several_gpus(engine, tmp_path):
    assert engine(CUDA_VISIBLE_DEVICES="0,1") == SHARED
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    assert engine() == SHARED


def test_an_engine_that_is_named_is_taken(engine):
    named = "config/accelerate/ddp.yaml"
    assert engine(ACCELERATE_CONFIG=named) == engine(ACCELERATE_CONFIG=named, CUDA_VISIBLE_DEVICES="0,1") == named
