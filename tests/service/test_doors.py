"""Who gets in, by which sockets; and what is left when the service has ended."""

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from http.cookies import SimpleCookie
from pathlib import Path

import numpy as np
import pytest
from fakes import N, http, npy, running_front, until

from hesscomp.client import NotRunning, connect
from hesscomp.errors import InputError
from hesscomp.service import workspace
from hesscomp.service.http import Doors
from hesscomp.service.options import ServiceOptions
from hesscomp.service.ranks import launch_words
from hesscomp.service.workspace import Workspace

TLS = str(Path(__file__).with_name("tls.pem"))  # of localhost


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with running_front(tmp_path_factory.mktemp("svc") / "svc") as running:
        yield running


def test_a_connection_of_another_user_is_closed_unheard(running, monkeypatch):
    monkeypatch.setattr("hesscomp.service.server._user_of", lambda peer: os.getuid() + 1)
    with pytest.raises(NotRunning):
        connect(running.folder)
    assert http(running, "GET", "/v1/status")[0] == 200  # TCP has no users: there the token counts
    monkeypatch.setattr("hesscomp.service.server._user_of", lambda peer: 0)
    assert connect(running.folder).status()["state"] == "ready"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_user_is_known_at_an_open_socket():
    """Even where folder and socket were opened to all, and the token is known."""
    with tempfile.TemporaryDirectory(prefix="h") as place:
        os.chmod(place, 0o755)
        with running_front(Path(place) / "svc") as running:
            path = running.service.door.getsockname()
            running.folder.chmod(0o755)
            os.chmod(path, 0o666)
            head = "GET /v1/status HTTP/1.1\r\nHost: hesscomp\r\nConnection: close\r\n"
            head += f"Authorization: Bearer {running.service.token}\r\n\r\n"
            words = f"""
import os, socket, sys
user = int(sys.argv[1])
os.setgroups([]); os.setgid(user); os.setuid(user)
door = socket.socket(socket.AF_UNIX)
door.connect({path!r})
try:
    door.sendall({head.encode()!r})
    print(door.recv(15))
except ConnectionError:
    print(b"")
"""
            for user, said in (("65534", b""), ("0", b"HTTP/1.1 200 OK")):
                done = subprocess.run(
                    [sys.executable, "-c", words, user], capture_output=True, text=True, check=True
                )
                assert done.stdout.strip() == repr(said)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"port": 0, "host": "0.0.0.0"}, "others could listen; give a `certificate`"),
        ({"port": 0, "host": "node17"}, "others could listen; give a `certificate`"),
        ({"port": 0, "host": "::"}, "others could listen; give a `certificate`"),
        ({"port": 0, "host": "node17", "key": "k.pem"}, "others could listen"),
        ({"port": 0, "host": "node17", "certificate": "c.pem"}, "go together; give both"),
        ({"certificate": "c.pem", "key": "k.pem"}, "`certificate` goes with `port`"),
    ],
)
def test_other_hosts_are_not_served_without_tls(given, message):
    with pytest.raises(InputError, match=message):
        ServiceOptions(folder="svc", **given)


def cookie_of(text: str, name: str):
    found = SimpleCookie(text)
    assert list(found) == [f"hesscomp-{name}"]
    return found[f"hesscomp-{name}"]


def test_the_cookie_is_the_services_and_no_scripts(running, tmp_path):
    """And on TLS it goes nowhere without it. It is of one host: it names no domain."""
    _, headers, _ = http(running, "POST", "/v1/session")
    cookie = cookie_of(headers["Set-Cookie"], running.service.workspace.name)
    assert re.fullmatch("[0-9a-f]{64}", cookie.value) and cookie.value != running.service.token
    assert http(running, "GET", "/v1/status", Authorization=f"Bearer {cookie.value}")[0] == 401
    assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "Strict", "/")
    assert not (cookie["secure"] or cookie["domain"] or cookie["expires"] or cookie["max-age"])
    given = {"host": "localhost", "certificate": TLS, "key": TLS}
    with running_front(tmp_path / "svc", **given) as other:
        headers, _ = connect(other.folder, other.url)._request("POST", "/v1/session")
        name = other.service.workspace.name
        assert cookie_of(headers["Set-Cookie"], name)["secure"] is True
        assert cookie_of(headers["Set-Cookie"], name).value != cookie.value  # of this start alone
        assert name != running.service.workspace.name


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/points"),
        ("POST", "/v1/points/zero/value"),
        ("POST", "/v1/jobs"),
        ("POST", "/v1/session"),
        ("DELETE", "/v1/arrays/answer-0"),
    ],
)
def test_every_change_needs_the_header_of_clients(running, method, path):
    body = npy(np.full(N, 7.25))
    assert http(running, method, path, body, X_Hesscomp=None)[0] == 403
    assert running.client.status()["points"] == 0


@pytest.mark.parametrize("runtime", ["", "here", "absent"])
def test_where_the_file_system_takes_no_sockets_they_are_elsewhere(tmp_path, monkeypatch, runtime):
    """In $XDG_RUNTIME_DIR, or where that is not here, in a folder of mode 0700 elsewhere."""
    listening = workspace._listening

    def refused(path):
        if tmp_path in path.parents:
            raise OSError(95, "Operation not supported", str(path))
        return listening(path)

    monkeypatch.setattr(workspace, "_listening", refused)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with tempfile.TemporaryDirectory(prefix="h") as place:
        if runtime:
            monkeypatch.setenv("XDG_RUNTIME_DIR", place if runtime == "here" else "/nowhere")
        monkeypatch.setattr(tempfile, "tempdir", "/nowhere" if runtime == "here" else place)
        with running_front(tmp_path / "svc") as running:
            socket_file = Path(running.service.door.getsockname())
            assert socket_file.parent.parent == Path(place)
            assert stat.S_IMODE(socket_file.parent.stat().st_mode) == 0o700
            assert stat.S_IMODE(socket_file.stat().st_mode) == 0o600
            assert connect(running.folder).point("zero").value == 0  # service.json names it
        socket_file.parent.chmod(0o755)
        with pytest.raises(InputError, match="others may enter it; remove it"):
            Workspace(tmp_path / "svc").bound("service.sock")


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(handle, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(InputError, match=r"svc: cannot be locked \(No locks available\)"):
        Workspace.made(tmp_path / "svc").lock()


def test_every_route_is_documented(running):
    text = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    told = {
        (method, path)
        for method, paths in re.findall(r"^\| ([A-Z]+) \| (`.*?`) \|", text, re.MULTILINE)
        for path in re.findall("`(.*?)`", paths)
    }
    service = running.service
    routes = Doors(service.front, service.workspace).routes()
    assert told == {(how, route.path) for route in routes for how in route.methods - {"HEAD"}}


@pytest.mark.parametrize(
    ("launcher", "ranks", "words"),
    [
        ("srun", None, []),
        ("srun", 4, ["--ntasks=4"]),
        ("mpiexec", None, ["-n", "1"]),
        ("mpiexec", 4, ["-n", "4"]),
    ],
)
def test_the_number_of_ranks_reaches_the_launcher(launcher, ranks, words):
    options = ServiceOptions(folder="svc", launcher=launcher, ranks=ranks)
    found = launch_words(options.launcher, options.ranks, "address", ())
    assert [word for word in found if word in ("-n", "1", "4", "--ntasks=4")] == words


FRONT = """
import sys
from hesscomp.service import server
from hesscomp.service.http import Doors
from hesscomp.service.options import ServiceOptions
from hesscomp.service.requests import ServedProblem

server.END_SECONDS = 0.2
server.launch_words = lambda *_: ["sh", "-c", "trap '' TERM; sleep 600 & sleep 600"]
options = ServiceOptions(folder=sys.argv[1])
sys.exit(server.serve(options, ServedProblem(problem="mnist-mlp"), (), lambda text: None))
"""


def session_of(pid: int) -> int:
    """The session of a process, 0 where it has ended."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return 0 if fields[0] == "Z" else int(fields[3])
    return 0


def launcher_of(front: int) -> int:
    """The launcher that a front has started in a session of its own, 0 as long as there is none."""
    with suppress(OSError):  # a child that ends meanwhile
        for pid in Path(f"/proc/{front}/task/{front}/children").read_text().split():
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sh\0"):
                return int(pid) if session_of(int(pid)) == int(pid) else 0
    return 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_no_rank_is_left_after_a_signal(tmp_path, number):
    """Neither the launcher nor its children, though they hear nothing: here they only sleep."""
    folder, launcher, started = tmp_path / "svc", 0, []

    def others() -> list[int]:
        found = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [pid for pid in found if session_of(pid) == launcher]

    front = subprocess.Popen([sys.executable, "-c", FRONT, str(folder)])
    try:
        launcher = until(lambda: launcher_of(front.pid), 30)
        started = until(lambda: len(found := others()) == 3 and found)
        until(lambda: (folder / "service.json").exists())
        front.send_signal(number)
        assert front.wait(20) == 0
        until(lambda: not others())
        assert not (folder / "service.json").exists()
    finally:
        front.kill()
        front.wait()
        for pid in started:
            if session_of(pid) == launcher:
                os.kill(pid, signal.SIGKILL)
