"""Ask a running service (`hesscomp serve`): points, products, jobs. Needs NumPy alone.

Examples
--------
>>> import hesscomp.client as client
>>> service = client.connect("svc")  # doctest: +SKIP
>>> x = service.point("initial")  # doctest: +SKIP
>>> x.gradient, x @ V, x.solve(b, shift=1e-3)  # doctest: +SKIP
>>> job = service.compress(x, rank=20)  # doctest: +SKIP
>>> job.result()["eigenvalues"]  # doctest: +SKIP
"""

import hashlib
import http.client
import io
import json
import math
import os
import platform
import secrets
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np

from hesscomp.errors import HesscompError, InputError

MOST_BODY = 16 * 2**20  # bytes; larger arrays go by name in the service's folder
SOON = 0.05  # seconds between two looks at whether the ranks are there
LONG = 30.0  # for which one request waits for the end of a job
ENDED = ("done", "failed", "cancelled")
CONNECTING = 20.0  # seconds that a connection to another host may take
TRIES = 20  # of a request that the service does not take now


class ServiceError(HesscompError):
    """The service refused a request, or could not do it; `status` is that of HTTP."""

    def __init__(self, text: str, status: int = 0):
        super().__init__(text)
        self.status = status


class NotRunning(ServiceError):
    """No service answers."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None):
        super().__init__("hesscomp", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def connect(
    folder: str | os.PathLike, url: str | None = None, timeout: float | None = None
) -> "Service":
    """Return the service of a folder.

    Parameters
    ----------
    folder : path
        The service's, with its token.
    url : str, optional
        Such as http://127.0.0.1:8000, where ``ssh -N -L 8000:/path/of/service.sock HOST`` or
        another tunnel leads to the service. By default the socket that the folder names, or on
        another host the https address that it names; the certificates in the folder are trusted.
    timeout : float, optional
        Seconds that an answer may take; by default any.

    Raises
    ------
    InputError
        Where the folder is no service's.
    NotRunning
        Where none answers.
    ServiceError
        Where an answer takes longer than `timeout`, here and for what the service is asked later.
    """
    service = Service(Path(folder), url, timeout)
    service.status()
    return service


def _told(folder: Path) -> dict[str, Any]:
    """Return what a service's folder tells of it; of a copy that has only the token nothing."""
    try:
        return json.loads((folder / "service.json").read_text())
    except (OSError, ValueError):
        return {}


def where(folder: Path) -> dict[str, Any]:
    """Return what a service's folder tells of it.

    Raises
    ------
    InputError
        Where the folder is no service's.
    NotRunning
        Where none runs.
    """
    if not (folder / "token").is_file():
        if (folder / "inbox").is_dir():
            raise NotRunning(f"{folder}: no service has started here; start it by hesscomp serve")
        raise InputError(f"{folder}: is no service's folder; `hesscomp serve` makes one")
    try:
        known = json.loads((folder / "service.json").read_text())
    except FileNotFoundError:
        raise NotRunning(f"{folder}: no service runs here; start it by hesscomp serve") from None
    except ValueError:
        raise InputError(f"{folder}/service.json: is damaged; start the service again") from None
    if known["host"] == platform.node() and not _lives(known["pid"]):
        raise NotRunning(
            f"{folder}: its service (process {known['pid']}) has ended; start it by hesscomp serve"
        )
    return known


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Service:
    """A running service; `connect` makes one. Threads may share it."""

    def __init__(self, folder: Path, url: str | None, timeout: float | None):
        self.folder, self.url, self.timeout = folder, url, timeout
        self.name = secrets.token_hex(8)  # for fairness between clients
        self._local = threading.local()
        where(folder) if url is None else None
        self._token = (folder / "token").read_text().strip()

    def status(self) -> dict[str, Any]:
        """Return how the service is: its problem, ranks, queue and jobs."""
        return self.request_json("GET", "/v1/status")

    def ready(self, seconds: float = 600.0) -> dict[str, Any]:
        """Wait until the ranks are there; return the status."""
        end = time.monotonic() + seconds
        while (status := self.status())["state"] == "starting":
            if time.monotonic() > end:
                raise ServiceError(f"{self.folder}: the ranks did not start within {seconds:g} s")
            time.sleep(SOON)
        return status

    def point(self, x: "np.ndarray | str") -> "Point":
        """Return a point of the service: an (n,) array, or the name zero or initial."""
        if isinstance(x, str):
            return Point(self, x)
        x = np.ascontiguousarray(_real(x))
        _, body = self._send_array("PUT", "/v1/points", x)
        return Point(self, json.loads(body)["id"], x)

    def submit(
        self,
        kind: str,
        point: "Point | np.ndarray | str | None" = None,
        key: str | None = None,
        **options,
    ) -> "Job":
        """Queue a job (compress, spectrum, sensitivity, train, newton) with options of its command.

        Parameters
        ----------
        kind : str
        point : Point, array or str, optional
            By default that of the command.
        key : str, optional
            A second request with the same key gives the job of the first.
        options
            Such as rank=20.
        """
        if isinstance(point, np.ndarray):
            point = self.point(point)
        body = {
            "kind": kind,
            "options": options,
            "point": point.id if isinstance(point, Point) else point,
            "key": key or secrets.token_hex(16),  # so that a lost answer may be asked for again
        }
        ask = partial(self.request_json, "POST", "/v1/jobs", json.dumps(body).encode())
        return Job(self, (point.held(ask) if isinstance(point, Point) else ask())["id"])

    def compress(self, point: "Point | np.ndarray | str | None" = None, **options) -> "Job":
        """Queue a compression; see `submit`."""
        return self.submit("compress", point, **options)

    def spectrum(self, point: "Point | np.ndarray | str | None" = None, **options) -> "Job":
        """Queue a spectral density; see `submit`."""
        return self.submit("spectrum", point, **options)

    def train(self, optimizer: str, point: "Point | str | None" = None, **options) -> "Job":
        """Queue a training; see `submit`."""
        return self.submit("train", point, optimizer=optimizer, **options)

    def jobs(self) -> list["Job"]:
        """Return all jobs, in the order of their making."""
        return [Job(self, known["id"]) for known in self.request_json("GET", "/v1/jobs")]

    def job(self, name: str) -> "Job":
        """Return the job with this id."""
        return Job(self, self.request_json("GET", f"/v1/jobs/{quote(name, safe='')}")["id"])

    def events(self, since: str | None = None) -> Iterator[tuple[str, str, Any]]:
        """Yield id, name and data of each event as it comes; those after the id `since`, if given.

        The event `reset` says that some are missed, as after a restart of the service: ask for
        its status and jobs again. What follows has come after it.

        Parameters
        ----------
        since : str, optional
            The id of an event, or what the status calls `event`.
        """
        headers = {} if since is None else {"Last-Event-ID": since}
        connection = self._connected()
        try:
            connection.request("GET", "/v1/events", headers={**self._headers(), **headers})
            answer = connection.getresponse()
            _check(answer.status, b"" if answer.status < 300 else answer.read())
            event: dict[str, str] = {}
            for line in io.TextIOWrapper(answer, "utf-8"):
                name, colon, value = line.rstrip("\n").partition(": ")
                if colon and name:
                    event[name] = value
                elif not line.strip() and "data" in event:
                    yield event["id"], event["event"], json.loads(event["data"])
                    event = {}
        finally:
            connection.close()

    def drain(self) -> None:
        """Let the service end: running jobs are saved, and go on with its next start."""
        self.request_json("POST", "/v1/drain")

    # Requests

    def _headers(self) -> dict[str, str]:
        return {
            "Authorization": f"Bearer {self._token}",
            "X-Hesscomp": "1",
            "X-Hesscomp-Client": self.name,
        }

    def _connected(self) -> http.client.HTTPConnection:
        connection = self._new_connection()
        try:
            connection.connect()
        except OSError as error:  # no such host, no route to it, no socket, no trust, ...
            connection.close()
            raise NotRunning(self._unreached(error)) from error
        connection.sock.settimeout(self.timeout)
        return connection

    def _new_connection(self) -> http.client.HTTPConnection:
        known = where(self.folder) if self.url is None else _told(self.folder)
        url, away = self.url, known.get("host") != platform.node()
        if url is None and away and (known["url"] or "").startswith("https:"):
            url = known["url"]
        if url is None:
            return _UnixConnection(known["socket"], self.timeout)
        parts, timeout = urlsplit(url), self.timeout or CONNECTING
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            context = ssl.create_default_context()
            if known.get("certificates"):
                context.load_verify_locations(cadata="\n".join(known["certificates"]))
            return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=timeout)

    def _request(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[Any, bytes]:
        """Return headers and body of an answer; what may be asked twice is asked again."""
        for tries in range(TRIES):
            fresh = getattr(self._local, "connection", None) is None
            if fresh:
                self._local.connection = self._connected()
            connection = self._local.connection
            try:
                connection.request(method, path, body, {**self._headers(), **headers})
                answer = connection.getresponse()
                data = answer.read()
            except (http.client.HTTPException, OSError) as error:
                connection.close()  # the service does no more for it
                self._local.connection = None
                if isinstance(error, TimeoutError) and self.timeout is not None:
                    raise ServiceError(
                        f"{self.folder}: no answer within {self.timeout:g} s; connect with a "
                        "longer `timeout`, or ask for less at a time"
                    ) from None
                if fresh:  # else it was one that the service had closed
                    raise NotRunning(self._unreached(error)) from error
                continue
            if answer.will_close:
                self._local.connection = None
            if answer.status == 503 and tries + 1 < TRIES and b"ending" not in data:
                time.sleep(min(float(answer.headers.get("Retry-After", 1)), SOON * 2**tries))
                continue
            _check(answer.status, data)
            return answer.headers, data
        raise NotRunning(f"{self.folder}: the service does not answer")

    def _unreached(self, error: Exception) -> str:
        known, text = _told(self.folder), f"{self.folder}: the service does not answer ({error})"
        if self.url is not None or known.get("host", platform.node()) == platform.node():
            return text
        return (
            f"{text}; it runs on {known['host']}: ask it there, or go through ssh -N -L "
            f"8000:{known['socket']} {known['host']} and connect with url='http://127.0.0.1:8000'"
        )

    def request_json(self, method: str, path: str, body: bytes = b"") -> Any:
        return json.loads(self._request(method, path, body)[1])

    def _send_array(self, method: str, path: str, array: np.ndarray) -> tuple[Any, bytes]:
        if array.nbytes <= MOST_BODY:
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            return self._request(method, path, stream.getvalue())
        if not self._sees_arrays:
            raise InputError(
                f"an array of {array.nbytes} bytes: above {MOST_BODY} it goes by a file in the "
                f"service's folder, and {self.folder} is a copy of that; send fewer columns at a "
                "time, or ask on a host that sees the folder itself"
            )
        name = secrets.token_hex(16)
        place = self.folder / "arrays" / f"{name}.npy"
        try:
            np.save(place, array, allow_pickle=False)
            return self._request(method, path, b"", **{"X-Hesscomp-Array": name})
        finally:
            place.unlink(missing_ok=True)

    def _array_of(self, headers: Any, body: bytes) -> np.ndarray:
        if headers["Content-Type"].startswith("application/x-npy"):
            return np.load(io.BytesIO(body), allow_pickle=False)
        place = self.folder / "arrays" / f"{json.loads(body)['array']}.npy"
        try:
            array = np.load(place, allow_pickle=False)
        except FileNotFoundError:
            self._request("DELETE", f"/v1/arrays/{place.stem}")
            raise ServiceError(
                f"the answer has more than {MOST_BODY} bytes, so it came as a file of the "
                f"service's folder, and {self.folder} is a copy of that; ask on a host that sees "
                "the folder itself"
            ) from None
        place.unlink()
        return array

    @property
    def _sees_arrays(self) -> bool:
        """Whether the folder is the service's own, and no copy with the token on another host."""
        return (self.folder / "arrays").is_dir()

    def _parts(self, V: np.ndarray) -> list[np.ndarray]:
        """Return an array, or where it cannot go by a file, parts of its columns that need none."""
        if V.ndim != 2 or V.nbytes <= MOST_BODY or self._sees_arrays:
            return [V]
        width = max(MOST_BODY * V.shape[1] // V.nbytes, 1)
        return [V[:, at : at + width] for at in range(0, V.shape[1], width)]


def _check(status: int, body: bytes) -> None:
    if status < 300:
        return
    try:
        text = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        text = f"the service answered with status {status}"
    raise ServiceError(text, status)


@dataclass(frozen=True)
class Point:
    """A point of a service, named by its content."""

    service: Service = field(repr=False)
    id: str
    known: np.ndarray | None = field(default=None, repr=False, compare=False)
    operator: str = "hessian"

    __array_ufunc__ = None  # NumPy leaves ``array @ point`` alone

    @property
    def x(self) -> np.ndarray:
        """The (n,) array."""
        if self.known is not None:
            return self.known
        return self.service._array_of(*self.service._request("GET", f"/v1/points/{self.id}"))

    @property
    def n(self) -> int:
        """The number of parameters."""
        return self.service.ready()["n"]

    def of(self, operator: str) -> "Point":
        """Return the point with another matrix: ggn, fisher, empirical-fisher, ..."""
        return Point(self.service, self.id, self.known, operator)

    @property
    def value(self) -> float:
        """The objective."""
        return json.loads(self._ask("value")[1])["value"]

    @property
    def gradient(self) -> np.ndarray:
        """The objective's gradient, (n,)."""
        return self.service._array_of(*self._ask("gradient"))

    def __matmul__(self, V: np.ndarray) -> np.ndarray:
        """Return the matrix times an (n,) or (n, k) array; products that wait share a block."""
        return self.product(V)

    def product(self, V: np.ndarray, batch: bool = True) -> np.ndarray:
        """Return the matrix times an array; without `batch`, with the bits of a lone product."""
        V, how = _real(V), {"batch": str(batch).lower()}
        parts = self.service._parts(V) if batch else [V]
        found = [self.service._array_of(*self._ask("product", part, **how)) for part in parts]
        return found[0] if len(found) == 1 else np.hstack(found)

    def solve(
        self, B: np.ndarray, shift: float = 0.0, tolerance: float = 1e-5, iterations: int = 1000
    ) -> np.ndarray:
        """Return X with (H + shift I) X = B by conjugate gradients, to a relative residual.

        Raises
        ------
        ServiceError
            Where it does not converge.
        """
        how = {"shift": shift, "tolerance": tolerance, "iterations": iterations}
        headers, body = self._ask("solve", B, **how)
        if headers["X-Converged"] != "true":
            raise ServiceError(
                f"no solution within {headers['X-Iterations']} iterations (residual "
                f"{headers['X-Residual']}); take a larger shift, or more iterations"
            )
        return self.service._array_of(headers, body)

    def to_scipy(self):
        """Return a SciPy operator of the matrix at this point."""
        from scipy.sparse.linalg import LinearOperator

        ways = dict.fromkeys(("matvec", "rmatvec", "matmat", "rmatmat"), self.__matmul__)
        return LinearOperator((self.n, self.n), dtype=np.float64, **ways)

    def _ask(self, what: str, array: np.ndarray | None = None, **how) -> tuple[Any, bytes]:
        path = f"/v1/points/{self.id}/{what}?{urlencode({'operator': self.operator, **how})}"
        return self.held(lambda: self._asked(path, array))

    def held(self, ask: Callable[[], Any]) -> Any:
        """Return what is asked at the point, which goes to the service again where it has left."""
        try:
            return ask()
        except ServiceError as why:
            if why.status != 404 or self.known is None:
                raise
        self.service.point(self.known)  # it had to leave, or the service is another one
        return ask()

    def _asked(self, path: str, array: np.ndarray | None) -> tuple[Any, bytes]:
        if array is None:
            return self.service._request("POST", path)
        return self.service._send_array("POST", path, _real(array))


def _real(array: Any) -> np.ndarray:
    """Return numbers as float64; InputError for complex ones, whose half NumPy would drop."""
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise InputError(f"an array of {array.dtype}: a service takes real numbers alone")
    return array.astype(np.float64, copy=False)


def point_id(x: np.ndarray) -> str:
    """Return the id that a service gives a point: the SHA-256 of its float64 numbers."""
    return hashlib.sha256(np.ascontiguousarray(x, "<f8").tobytes()).hexdigest()


@dataclass(frozen=True)
class Job:
    """A job of a service."""

    service: Service = field(repr=False)
    id: str

    @property
    def known(self) -> dict[str, Any]:
        """All that the service tells of it."""
        return self.service.request_json("GET", self._path)

    @property
    def _path(self) -> str:
        return f"/v1/jobs/{self.id}"

    @property
    def state(self) -> str:
        """queued, running, done, failed or cancelled."""
        return self.known["state"]

    @property
    def progress(self) -> tuple[int, int | None]:
        """Product columns so far, and the most that they can be, where that is known."""
        known = self.known
        return known["done"], known["total"]

    def wait(self, seconds: float | None = None) -> str:
        """Wait until the job has ended; return its state.

        Raises
        ------
        ServiceError
            Where it has not ended within `seconds`.
        """
        end = math.inf if seconds is None else time.monotonic() + seconds
        longest = min(LONG, (self.service.timeout or math.inf) / 2)
        while True:
            wait = max(min(end - time.monotonic(), longest), 0.0)
            state = self.service.request_json("GET", f"{self._path}?wait={wait:.3f}")["state"]
            if state in ENDED:
                return state
            if time.monotonic() >= end:
                raise ServiceError(f"job {self.id} is {state} after {seconds:g} s")

    def result(self, seconds: float | None = None) -> dict[str, Any]:
        """Wait for the end; return the numbers that the command's `--json` writes.

        Raises
        ------
        ServiceError
            For a job that failed or was cancelled.
        """
        if (state := self.wait(seconds)) != "done":
            raise ServiceError(f"job {self.id} {state}: {self.known['error'] or 'by request'}")
        return self.service.request_json("GET", f"{self._path}/result")["numbers"]

    @property
    def warnings(self) -> list[str]:
        """What the job warned of, such as eigenpairs that are not accurate."""
        return self.known["warnings"]

    @property
    def files(self) -> list[str]:
        """Names of the files of a job that is done."""
        return self.known["files"]

    def fetch(self, name: str, out: str | os.PathLike | None = None) -> Path:
        """Write one of the files, such as factor.h5, to `out` (by default of its name) here."""
        place = Path(name if out is None else out)
        _, body = self.service._request("GET", f"{self._path}/result/{quote(name, safe='')}")
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        temporary.write_bytes(body)
        shutil.move(temporary, place)
        return place

    def cancel(self) -> None:
        """Cancel it; one that runs ends within its present product, or after it."""
        self.service.request_json("DELETE", self._path)


def leave(folder: str | os.PathLike, kind: str, options: dict[str, Any], point: str | None) -> str:
    """Leave a job in the inbox of a service that this host has no connection to; return its key.

    A folder that is absent or empty is made one of a service that has not started yet.

    Raises
    ------
    InputError
        For a folder of something else.
    """
    key = secrets.token_hex(16)
    place = Path(folder)
    inbox = place / "inbox"
    if not inbox.is_dir():
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"{folder}: is no service's folder; name a new or an empty one")
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.chmod(0o700)
        inbox.mkdir(mode=0o700, exist_ok=True)
    body = {"kind": kind, "options": options, "point": point, "key": key}
    temporary = inbox / f".{key}.tmp"
    temporary.write_text(json.dumps(body))
    temporary.rename(inbox / f"{key}.json")
    return key


def left(folder: str | os.PathLike) -> list[tuple[str, str]]:
    """Return the files of a service's inbox by name, each with "waiting", or why it is refused."""
    found = []
    for path in sorted((Path(folder) / "inbox").glob("*")):
        if path.suffix == ".json":
            found.append((path.name, "waiting"))
        elif path.suffix == ".refused":
            try:
                why = path.with_suffix(".reason").read_text().strip()
            except OSError:
                why = "the log of the service says why"
            found.append((path.name, f"refused: {why}"))
    return found
