"""The commands of docs/report.md, run as they stand there."""

import re
import shlex

import pytest
from helpers import ROOT, run

from .made_up_runs import full_results, seeded_results

pytestmark = pytest.mark.slow

PAGE = (ROOT / "docs" / "report.md").read_text()
COMMANDS = re.findall(r"^ {4}python -m (safeeraser\.report) (.*)$", PAGE, re.MULTILINE)


def test_every_command_runs(tmp_path):
    seeded_results(tmp_path / "results")
    for name in ("llava-1.5-7b", "before", "after"):
        full_results(tmp_path / "results" / name)
    assert len(COMMANDS) == 3
    for command, words in COMMANDS:
        done = run(command, *shlex.split(words), cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    for folder in ("results/llava-1.5-7b", "results", "compared"):
        assert "<html" in (tmp_path / folder / "report.html").read_text()
        assert {"summary.json", "table.md", "plots"} <= {path.name for path in (tmp_path / folder).iterdir()}
