"""Runs that are killed: a short `scripts/faults.py`."""

import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "faults.py"


@pytest.mark.slow
def test_killed_runs_leave_whole_files_and_come_to_the_same_end(run_command):
    done = run_command([sys.executable, SCRIPT, "--kills", 6, "--seed", 1], timeout=580)
    assert done.returncode == 0 and "slowest" in done.stdout, done.stdout + done.stderr
