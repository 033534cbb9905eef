"""The commands of docs/report.md, run as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .made_up_runs import full_results, seeded_results

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "report.md").read_text()
COMMANDS = re.findall(r"^ {4}python (-m safeeraser\.report .*)$", PAGE, re.MULTILINE)


def test_every_command_runs(tmp_path):
    seeded_results(tmp_path / "results")
    for name in ("llava-1.5-7b", "before", "after"):
        full_results(tmp_path / "results" / name)
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        done = subprocess.run([sys.executable, *shlex.split(command)], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr)
    for folder in ("results/llava-1.5-7b", "results", "compared"):
        assert "<html" in (tmp_path / folder / "report.html").read_text()
        assert {"summary.json", "table.md", "plots"} <= {path.name for path in (tmp_path / folder).iterdir()}
