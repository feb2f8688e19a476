"""Ranks that are killed or stopped: the others end, and one line says which rank and where."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOB = Path(__file__).resolve().parents[2] / "scripts" / "hosts.py"  # reduces for ever
TIMEOUT, END = 3, 15  # seconds: --comm-timeout, and for all to be over after that
# A command of which rank 1 meets a signal before MPI's start, or when all is done.
COMMAND = """
import os, signal, sys
from hesscomp.cli import guard

number, moment = int(sys.argv.pop(1)), sys.argv.pop(1)
command = guard.command

def struck(now):
    if os.environ["PMI_RANK"] == "1" and now == moment:
        os.kill(os.getpid(), number)

def main():
    struck("start")
    status = command()
    struck("end")
    return status

guard.command = main
sys.exit(guard.main())
"""


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def leaves(pid: int) -> list[int]:
    below = children(pid)
    return [leaf for child in below for leaf in leaves(child)] if below else [pid]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, r"rank \d on \S+ was killed by SIGKILL( in (reducing|resting))?;"),
        (signal.SIGSEGV, r"rank \d on \S+ was killed by SIGSEGV( in (reducing|resting))?$"),
        (
            signal.SIGSTOP,
            r"rank \d on \S+ did not come to the \w+( in \w+)? within 3 s \(--comm-timeout",
        ),
    ],
)
def test_the_others_end_and_one_line_says_why(number, says, mpiexec, launch_environment, tmp_path):
    command = [mpiexec, "-n", "3", sys.executable, JOB, "rank", "reduce", str(TIMEOUT)]
    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(
            command, cwd=tmp_path, stdout=log, stderr=log, env=launch_environment
        )  # fmt: skip
    while len(list(tmp_path.glob("begun-*"))) < 3:
        assert job.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.1)
    ranks = leaves(job.pid)
    assert len(ranks) == 3
    os.kill(ranks[1], number)
    assert job.wait(TIMEOUT + END) != 0
    deadline = time.monotonic() + END
    while any(alive(pid) for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (line,) = (line for line in (tmp_path / "log").read_text().splitlines() if "error:" in line)
    assert re.search(says, line)


@pytest.mark.parametrize(
    ("number", "moment", "says"),
    [
        (signal.SIGKILL, "start", r"rank 1 on \S+ was killed by SIGKILL;"),
        (signal.SIGSTOP, "start", r"waited longer than --comm-timeout .* in MPI's start$"),
        (signal.SIGKILL, "end", r"rank 1 on \S+ was killed by SIGKILL;"),
        (signal.SIGSTOP, "end", r"waited longer than --comm-timeout .* in MPI's end$"),
    ],
)
def test_also_where_mpi_has_not_begun_or_is_over(
    number, moment, says, mpiexec, launch_environment, tmp_path
):
    done = subprocess.run(
        [mpiexec, "-n", "3", sys.executable, "-c", COMMAND, str(int(number)), moment,
         "data", "adult", "--comm-timeout", "3"],
        cwd=tmp_path, env=launch_environment, capture_output=True, text=True, timeout=3 * END,
    )  # fmt: skip
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "error:" in line)
    assert re.search(says, line)
