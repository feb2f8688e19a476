"""The relay between a rank and a SLURM that reads only so much of a request."""

import sys

import pytest

from hesscomp.parallel.watchdog.pmi_relay import LONGEST_KEY, LONGEST_NAME, READ, VALUE, shorten

# A rank that asks how long values may be, puts one of that length and ends; and its SLURM.
COMMAND = f"""
import os, socket
from hesscomp.parallel.watchdog.pmi_relay import PmiRelay

slurm, task = socket.socketpair()
os.environ["PMI_FD"] = str(task.fileno())
relay = PmiRelay()
if os.fork() == 0:
    slurm.close()
    relay.use()
    line = socket.socket(fileno=task.detach())
    line.sendall(b"cmd=get_maxes\\n")
    length = int(line.recv(2000).decode().rpartition("=")[2])
    name, key, value = {LONGEST_NAME} * "n", {LONGEST_KEY} * "k", length * "v"
    line.sendall(f"cmd=put kvsname={{name}} key={{key}} value={{value}}\\n".encode())
    os._exit(0)
relay.serve()
print(slurm.recv({READ}).decode(), end="")
slurm.sendall(b"cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024\\n")
os.wait()
relay.finish()
request = slurm.recv({READ}).decode()
assert request.startswith("cmd=put ") and request.endswith("v\\n"), request
print(len(request))
"""


def test_requests_are_as_long_as_slurm_reads(run_command):
    done = run_command([sys.executable, "-c", COMMAND], timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"cmd=get_maxes\n{READ}\n"


@pytest.mark.parametrize(
    ("answer", "passed_on"),
    [
        ("cmd=maxes rc=0 vallen_max=1024\n", f"cmd=maxes rc=0 vallen_max={VALUE}\n"),
        ("cmd=maxes rc=0 vallen_max=256\n", "cmd=maxes rc=0 vallen_max=256\n"),
        ("cmd=get_result rc=0 value= vallen_max=1024\n",) * 2,
    ],
)
def test_only_the_length_of_values_is_changed(answer, passed_on):
    assert shorten(answer.encode()) == passed_on.encode()
