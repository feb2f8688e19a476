"""Jobs across several hosts, which are network namespaces made by scripts/hosts-sandbox."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SANDBOX, SCRIPT = ROOT / "scripts" / "hosts-sandbox", ROOT / "scripts" / "hosts.py"

pytestmark = pytest.mark.hosts


class Hosts:
    """Three hosts; jobs start from a folder that they share."""

    def __init__(self, run_command, folder: Path, environment: dict[str, str]):
        self.run_command, self.folder, self.environment = run_command, folder, environment

    def hesscomp(self, ranks: int, *arguments):
        """Run hesscomp with its ranks dealt over the hosts."""
        program = [sys.executable, "-m", "hesscomp", *arguments]
        command = [SANDBOX, "mpiexec", "-n", ranks, *program]
        return self.run_command(command, cwd=self.folder, env=self.environment)


@pytest.fixture(scope="module")
def several_hosts(run_command):
    """Whether there can be several: skipped with the reason if not."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    if not shutil.which("ip", path=path):
        pytest.skip("there is no ip: apt-get install iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root: sudo make test-hosts")
    if run_command([SANDBOX, "status"]).returncode == 0:
        pytest.fail(f"there are hosts already; first: {SANDBOX} stop")


@pytest.fixture
def hosts(several_hosts, run_command, tmp_path):
    environment = {"PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}"}  # mpiexec
    done = run_command([SANDBOX, "start", "3"])
    assert done.returncode == 0, done.stderr
    yield Hosts(run_command, tmp_path, environment)
    done = run_command([SANDBOX, "stop"])
    assert done.returncode == 0, done.stderr


def test_a_start_that_fails_leaves_nothing(several_hosts, run_command, tmp_path):
    (tmp_path / "unshare").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOSTS_SANDBOX": str(tmp_path / "sandbox"),
    }
    assert run_command([SANDBOX, "start", "2"], env=environment).returncode
    assert not (tmp_path / "sandbox").exists() and not Path("/etc/netns/hesscomp-h1").exists()
    assert "hesscomp" not in run_command(["ip", "netns", "list"]).stdout


def test_newton_and_compress_give_what_they_give_on_one_host(hosts, run_ranks):
    from hesscomp.factors import load_factor

    newton = ["newton", "--data", "adult", "--reproducible", "--threads", "1"]
    compress = ["compress", "--data", "adult", "--rank", "8", "--layout", "rows", "--reproducible"]
    for where in ("hosts", "here"):
        for command in (
            [*newton, "--json", f"{where}.json", "--factor-out", f"{where}-newton.h5"],
            [*compress, "--threads", "1", "--out", f"{where}.h5"],
        ):
            if where == "hosts":
                done = hosts.hesscomp(3, *command)
            else:
                done = run_ranks(2, command, cwd=hosts.folder)
            assert done.returncode == 0, done.stderr
    reports = [
        json.loads((hosts.folder / f"{where}.json").read_text()) for where in ("hosts", "here")
    ]
    assert reports[0]["objective"] == reports[1]["objective"]
    for name in ("", "-newton"):
        far, near = (load_factor(hosts.folder / f"{where}{name}.h5") for where in ("hosts", "here"))
        np.testing.assert_array_equal(far.eigenvalues, near.eigenvalues)
        np.testing.assert_array_equal(far.eigenvectors, near.eigenvectors)


@pytest.mark.parametrize(
    "words",
    ["wire", "faults --cuts 2 --stops 2 --timeout 3", "faults --cuts 1 --stops 1 --job train"],
)
def test_the_wire_and_the_faults(several_hosts, run_command, words):
    done = run_command([sys.executable, SCRIPT, *words.split()], timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
