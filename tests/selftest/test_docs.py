"""docs/performance.md: its commands can be given, and it tells of the checks, sizes and bounds that there are."""

import re
import shlex

from helpers import ROOT

from safeeraser.selftest import engines, memory, nf4, precision, speed
from safeeraser.selftest.__main__ import parser
from safeeraser.selftest.run import CHECKS, SIZES

PAGE = (ROOT / "docs" / "performance.md").read_text()
COMMANDS = re.findall(r"^ {4}python -m safeeraser\.selftest(.*)$", PAGE, re.MULTILINE)


def test_the_commands_can_be_given():
    given = [parser().parse_args(shlex.split(words)) for words in COMMANDS]
    assert [each.size for each in given] == [None, "1b"]
    assert given[0].only == tuple(CHECKS) and given[1].only == ("precision", "memory", "speed")


def test_the_checks_and_sizes_are_those_that_there_are():
    for title in ("### What is checked", "### On a CPU"):
        section = PAGE.partition(title)[2].partition("\n##")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == list(CHECKS)
    sizes = re.findall(r"^\| `(\w+)` \| .* \| ([\d.]+) GiB \|$", PAGE, re.MULTILINE)
    assert {name: float(gib) for name, gib in sizes} == memory.DISK and set(memory.DISK) == set(SIZES)


def test_the_bounds_are_those_that_hold():
    assert f"besides, {precision.NO_WORSE} times" in PAGE and f"{memory.LEAST} to {memory.MOST}" in PAGE
    assert f"| {nf4.GAP} |" in PAGE and f"at most {speed.WHOLE:.0%}" in PAGE
    (plain, _), (loose, deepspeed) = engines.BOUNDS["float32"], engines.BOUNDS["bfloat16"]
    assert f"float32: {plain} of its size; bfloat16: {loose}, under DeepSpeed {deepspeed}" in PAGE
