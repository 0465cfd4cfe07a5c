"""Few calls stand between a command and the line that does its work (benchmarks/call_depth.py has the limits)."""

import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.slow
def test_no_command_is_deeper_than_its_limit():
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.call_depth"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout[-3000:] + answer.stderr[-1000:]
    assert answer.stdout.count("at most") == 8, "every command is measured"
