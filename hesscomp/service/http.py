"""The service's HTTP: routes, who may ask, limits, events and metrics."""

import asyncio
import errno
import hmac
import logging
import re
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route, Router

from hesscomp.client import MOST_BODY
from hesscomp.errors import HesscompError, InputError, describe, one_line
from hesscomp.service.batching import Room
from hesscomp.service.drawings import PICTURE, REPORT, Drawings
from hesscomp.service.front import Failed, Front, Gone, Unavailable
from hesscomp.service.jobs import DONE, Full, JobStore
from hesscomp.service.metrics import metrics_text
from hesscomp.service.requests import NAMED_POINTS, check_array_memory
from hesscomp.service.wire import Job, JobBody, npy_of, numbers_of, off_loop
from hesscomp.service.workspace import ANSWER, Workspace, checked_name
from hesscomp.storage.files import remove_files
from hesscomp.storage.npy import mapped_npy, read_npy, save_npy

log = logging.getLogger(__name__)

MOST_ITERATIONS = 10_000  # of a solve
MOST_JSON = 2**16
NPY_HEADER = 2**12
NUMBER = np.dtype(np.float64).itemsize
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
MOST_WAIT = 60.0  # seconds for which a request waits for a job's end
ANSWER_SECONDS = 600.0  # for which an answer, or its file, waits for its client
CHANGES = ("POST", "PUT", "DELETE", "PATCH")
OPEN = ("/", "/page.js", "/page.css")  # nothing secret is in them
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]@:/]+)(?::[0-9]{1,5})?")
LOCAL = ("localhost", "127.0.0.1", "[::1]", "hesscomp")
TAKEN = "taken"  # in a request's scope: bytes of the room for arrays
LEAVING = "leaving"  # in a request's state: what is called when its client has gone
NPY = "application/x-npy"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css"}
PAGES = Path(__file__).with_name("pages")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
# A report is opened by itself: it has its own style, and may do nothing else.
REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; "
    "frame-ancestors 'none'; base-uri 'none'; sandbox"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Refused(HesscompError):
    """A request that is not answered, with its status."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status = status


def reply(value: Any, status: int = 200, **headers: str) -> Response:
    """Return a value as JSON."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")


def refusal(status: int, text: str) -> Response:
    """Return an error in one line."""
    answer = reply({"error": one_line(text)}, status)
    if status == 503:
        answer.headers["retry-after"] = "2"
    if status in (400, 401, 403, 408, 413, 503):
        answer.headers["connection"] = "close"  # what follows of the body is not read
    return answer


class Guard:
    """What every request must pass: host, origin, the header of changes, and the token.

    Parameters
    ----------
    app : ASGI application
    token : str
    cookie : tuple of str
        Name and value of the cookie with which a browser comes in: a secret of this start alone,
        for browsers send cookies to other ports of this host too.
    hosts : tuple of str
        Names under which the service may be asked, besides those of this host alone.
    """

    def __init__(self, app, token: str, cookie: tuple[str, str], hosts: tuple[str, ...] = ()):
        self.app, self.token, self.cookie = app, token.encode(), cookie
        self.hosts = (*LOCAL, *hosts)

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [each for each in HEADERS if each[0] not in given]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            self._check(scope)
        except Refused as why:
            await refusal(why.status, str(why))(scope, receive, send_with_headers)
            return
        await self.app(scope, receive, send_with_headers)

    def _check(self, scope) -> None:
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in headers and name in (b"host", b"origin", b"authorization"):
                raise Refused(400, f"the header {name.decode()} is there twice")
            headers[name] = value
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if _without_port(host) not in self.hosts:
            raise Refused(403, f"Host {host[:60]!r}: the service does not go by this name")
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1").lower() != f"{scope['scheme']}://{host}":
            raise Refused(403, "Origin: other sites may not ask this service")
        if scope["method"] in CHANGES and b"x-hesscomp" not in headers:
            raise Refused(403, "the header X-Hesscomp: 1 is missing, which only clients send")
        if scope["path"] in OPEN and scope["method"] in ("GET", "HEAD"):
            return
        if headers.get(b"sec-fetch-site", b"none") not in (b"same-origin", b"none"):
            raise Refused(403, "Sec-Fetch-Site: other sites may not ask this service")
        if not self._may_enter(headers):
            raise Refused(401, "the token is missing or wrong; it is in the file FOLDER/token")

    def _may_enter(self, headers: dict[bytes, bytes]) -> bool:
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer":
            return hmac.compare_digest(given.strip(), self.token)
        name, secret = self.cookie
        try:
            found = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(name)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), secret.encode())


def _without_port(host: str) -> str:
    """Return the name or address of a Host header, empty where it is no such header."""
    found = HOST.fullmatch(host)
    return "" if found is None else found[1]


class Answered:
    """A handler as an ASGI application: its errors become statuses with one line.

    What a request takes of the room for arrays is given back when its client has taken the answer.
    A large answer takes room too, as far as the request did not take it already.

    Parameters
    ----------
    handler : coroutine function of a Request that returns a Response
    room : Room
    """

    def __init__(self, handler: Callable[[Request], Awaitable[Response]], room: Room):
        self.handler, self.room = handler, room

    async def __call__(self, scope, receive, send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
            large = _size(response) > NPY_HEADER
            await response(scope, receive, partial(_send_all, send) if large else send)
        finally:
            self.room.give(scope.pop(TAKEN, 0), _client(request))

    async def _answer(self, request: Request) -> Response:
        try:
            response = await self.handler(request)
            more = _size(response) - request.scope.get(TAKEN, 0)
            if more > NPY_HEADER:
                take(self.room, request, more)
            return response
        except (Refused, Failed) as why:
            return refusal(why.status, str(why))
        except (Unavailable, Full) as why:
            return refusal(503, str(why))
        except InputError as why:
            return refusal(422, str(why))
        except KeyError as why:
            return refusal(404, f"{str(why.args[0])[:80]}: there is none here")
        except (msgspec.MsgspecError, UnicodeError) as why:
            return refusal(400, str(why))
        except (ClientDisconnect, Gone):
            return Response(status_code=400)
        except Exception as why:
            full = isinstance(why, OSError) and why.errno in NO_SPACE
            log.error("%s %s: %s", request.method, request.url.path, describe(why))
            return refusal(507 if full else 500, describe(why))


def _size(response: Response) -> int:
    """Return the bytes of a body that is at hand; 0 of a file and of a stream."""
    return len(getattr(response, "body", b""))


async def _send_all(send, message) -> None:
    """Send a message of ASGI; after a body's bytes wait until its client has taken them."""
    if message.get("body") and not message.get("more_body"):
        await send({**message, "more_body": True})
        message = {"type": message["type"]}
    await send(message)


def take(room: Room, request: Request, count: int) -> None:
    """Take room for bytes of a request, which `Answered` gives back."""
    room.take(count, _client(request))
    request.scope[TAKEN] = request.scope.get(TAKEN, 0) + count


class Doors:
    """The handlers of the routes.

    Parameters
    ----------
    front : Front
    workspace : Workspace
    """

    def __init__(self, front: Front, workspace: Workspace):
        self.front, self.workspace = front, workspace
        self.cookie = f"hesscomp-{workspace.name}", secrets.token_hex(32)
        self.drawings = Drawings(front.store)

    @property
    def store(self) -> JobStore:
        return self.front.store

    def routes(self) -> list[Route]:
        """Return the routes."""
        listed = [
            ("GET", "/v1/status", self.status),
            ("GET", "/v1/noop", self.noop),
            ("GET", "/v1/events", self.events),
            ("GET", "/v1/metrics", self.metrics),
            ("POST", "/v1/session", self.session),
            ("POST", "/v1/drain", self.drain),
            ("GET", "/v1/points", self.points),
            ("PUT", "/v1/points", self.put_point),
            ("GET", "/v1/points/{point}", self.point),
            ("POST", "/v1/points/{point}/value", self.value),
            ("POST", "/v1/points/{point}/gradient", self.gradient),
            ("POST", "/v1/points/{point}/product", self.product),
            ("POST", "/v1/points/{point}/solve", self.solve),
            ("DELETE", "/v1/arrays/{name}", self.remove_answer),
            ("GET", "/v1/jobs", self.jobs),
            ("POST", "/v1/jobs", self.add_job),
            ("GET", "/v1/jobs/{job}", self.job),
            ("DELETE", "/v1/jobs/{job}", self.cancel),
            ("GET", "/v1/jobs/{job}/result", self.result),
            ("GET", "/v1/jobs/{job}/result/{name}", self.result_file),
            ("GET", "/v1/jobs/{job}/picture", self.picture),
            ("GET", "/v1/jobs/{job}/report", self.report),
            *(("GET", path, self.page) for path in OPEN),
        ]
        return [
            Route(path, Answered(handler, self.front.room), methods=[how])
            for how, path, handler in listed
        ]

    async def status(self, request: Request) -> Response:
        return reply({"name": self.workspace.name, **self.front.status()})

    async def noop(self, request: Request) -> Response:
        """Answer when the ranks have: what one request to them costs."""
        await self.front.ask("noop", "zero", _client(request))
        return reply({})

    async def events(self, request: Request) -> Response:
        given = request.headers.get("last-event-id")
        return StreamingResponse(
            self.front.events.since(given), media_type="text/event-stream; charset=utf-8"
        )

    async def metrics(self, request: Request) -> Response:
        return Response(metrics_text(self.front), media_type="text/plain; version=0.0.4")

    async def session(self, request: Request) -> Response:
        """Let a browser come in by a secret that no script reads."""
        secure = "; Secure" if request.url.scheme == "https" else ""
        cookie = "=".join(self.cookie)
        return Response(
            status_code=204,
            headers={"set-cookie": f"{cookie}; HttpOnly; SameSite=Strict; Path=/{secure}"},
        )

    async def drain(self, request: Request) -> Response:
        self.front.drain()
        return reply({"state": self.front.state}, 202)

    # Points

    async def points(self, request: Request) -> Response:
        points = self.front.points
        return reply(
            [
                {"id": name, "bytes": x.nbytes, "used": points.used[name]}
                for name, x in points.held.items()
            ]
        )

    async def put_point(self, request: Request) -> Response:
        x = await self._array(request, "the point")
        if x.ndim != 1:
            raise InputError(f"the point: has shape {x.shape}; send ({self.front.n},)")
        return reply({"id": await self.front.add_point(x), "n": self.front.n}, 201)

    async def point(self, request: Request) -> Response:
        name = request.path_params["point"]
        self._take(request, self.front.n * NUMBER)
        if name in NAMED_POINTS:
            _, (x,) = await self.front.ask("point_itself", name, _client(request))
        else:
            x = self.front.points[name]
        return await self._send(x)

    async def value(self, request: Request) -> Response:
        header, _ = await self._ask(request, "gradient")
        return reply({"value": header["value"]})

    async def gradient(self, request: Request) -> Response:
        self._take(request, self.front.n * NUMBER)  # that of the answer, before it is made
        header, (gradient,) = await self._ask(request, "gradient")
        return await self._send(gradient, **{"x-value": repr(header["value"])})

    async def product(self, request: Request) -> Response:
        V = await self._array(request, "the body")
        batch = request.query_params.get("batch", "true")
        if batch not in ("true", "false"):
            raise InputError(f"`batch` {batch[:20]!r}: take true or false")
        _, (product,) = await self._ask(request, "product", V, alone=batch == "false")
        return await self._send(product.reshape(V.shape))

    async def solve(self, request: Request) -> Response:
        B = await self._array(request, "the body")
        given = {
            "shift": _number(request, "shift", 0.0),
            "tolerance": _number(request, "tolerance", 1e-5),
            "iterations": int(_number(request, "iterations", 1000)),
        }
        if not (0 < given["tolerance"] < 1 and 0 < given["iterations"] <= MOST_ITERATIONS):
            raise InputError(
                f"`tolerance` must be above 0 and below 1, `iterations` 1 to {MOST_ITERATIONS}"
            )
        header, (X,) = await self._ask(request, "solve", B, **given)
        told = {
            "x-iterations": str(max(header["iterations"])),
            "x-residual": repr(max(header["residuals"])),
            "x-converged": str(all(header["converged"])).lower(),
        }
        return await self._send(X.reshape(B.shape), **told)

    async def _ask(self, request: Request, kind: str, array=None, **given):
        block = None if array is None else array.reshape(len(array), -1)
        operator = request.query_params.get("operator", "hessian")
        name = request.path_params["point"]
        leaving = request.scope.setdefault("state", {}).setdefault(LEAVING, [])
        return await self.front.ask(
            kind, name, _client(request), block, operator, leaving=leaving, **given
        )

    async def _array(self, request: Request, what: str) -> np.ndarray:
        """Return the array of a body, or of the file that it names."""
        n, name = self.front.n, request.headers.get("x-hesscomp-array")
        if name is None:
            array = read_npy(await self._body(request, MOST_BODY + NPY_HEADER), what)
            wider = array.size * NUMBER - array.nbytes  # of a type that is narrower than float64
            self._take(request, max(wider, 0))
            return await off_loop(array.size * NUMBER, numbers_of, array, n, what)
        path = self.workspace.array(name)
        try:
            mapped = await asyncio.to_thread(mapped_npy, path)
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"{what} in arrays/{path.name}: cannot be read ({error})") from error
        size = max(mapped.size * NUMBER, path.stat().st_size - NPY_HEADER)
        check_array_memory(size, self.front.about["ranks"])
        self._take(request, size)
        # It is read, not kept mapped: the file is the client's, who may change or shorten it.
        array = read_npy(await asyncio.to_thread(path.read_bytes), what)
        return await off_loop(array.size * NUMBER, numbers_of, array, n, what)

    async def _body(self, request: Request, most: int) -> bytes:
        """Return a request's body; one that is too long is refused unread.

        Its bytes count as waiting from their arrival until the answer is taken.
        """
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > most:
            raise Refused(
                413, f"the body is longer than {most} bytes; write a larger array to FOLDER/arrays "
                "and name it by X-Hesscomp-Array"
            )  # fmt: skip
        parts, size = [], 0
        async for part in request.stream():
            self._take(request, len(part))
            parts.append(part)
            size += len(part)
            if size > most:
                raise Refused(413, f"the body is longer than {most} bytes")
        return b"".join(parts)

    def _take(self, request: Request, count: int) -> None:
        take(self.front.room, request, count)

    async def _send(self, array: np.ndarray, **headers: str) -> Response:
        """Return an array as a body, or the name of its file where it is large."""
        if array.nbytes <= MOST_BODY:
            return Response(await off_loop(array.nbytes, npy_of, array), 200, headers, NPY)
        name = self.workspace.answer()
        path = self.workspace.array(name)
        await asyncio.to_thread(save_npy, path, array)
        asyncio.get_running_loop().call_later(ANSWER_SECONDS, remove_files, [path])
        return reply({"array": name}, 200, **headers)

    async def remove_answer(self, request: Request) -> Response:
        """Remove a large answer, for a client that does not see the folder."""
        name = request.path_params["name"]
        if not name.startswith(ANSWER):
            raise KeyError(name)
        remove_files([self.workspace.array(name)])
        return Response(status_code=204)

    # Jobs

    def _job(self, request: Request) -> Job:
        return self.store[request.path_params["job"]]

    async def jobs(self, request: Request) -> Response:
        return reply([job.brief() for job in self.store.jobs.values()])

    async def add_job(self, request: Request) -> Response:
        body = msgspec.json.decode(await self._body(request, MOST_JSON), type=JobBody)
        if body.key is not None:
            checked_name(body.key, "`key`")
        job, new = await self.front.add_job(body, _client(request))
        return reply(job, 201 if new else 200)

    async def job(self, request: Request) -> Response:
        """Answer at once, or with `wait` when the job has ended, at the latest after so long."""
        seconds = min(_number(request, "wait", 0.0), MOST_WAIT)
        return reply(await self.front.ended(self._job(request), seconds))

    async def cancel(self, request: Request) -> Response:
        return reply(await self.front.cancel(self._job(request)))

    async def result(self, request: Request) -> Response:
        job = self._job(request)
        if job.state != DONE:
            raise Refused(409, f"job {job.id} is {job.state}, so it has no result")
        numbers = self.store.place(job) / "numbers.json"
        text = await asyncio.to_thread(numbers.read_bytes) if numbers.exists() else b"null"
        return reply({"numbers": msgspec.Raw(text), "files": job.files})

    async def result_file(self, request: Request) -> Response:
        return FileResponse(self.store.result(self._job(request), request.path_params["name"]))

    async def picture(self, request: Request) -> Response:
        return FileResponse(await self.drawings.find(self._job(request), PICTURE))

    async def report(self, request: Request) -> Response:
        path = await self.drawings.find(self._job(request), REPORT)
        return FileResponse(path, headers={"content-security-policy": REPORT_POLICY})

    async def page(self, request: Request) -> Response:
        name = request.url.path.lstrip("/") or "index.html"
        path = PAGES / name
        if not path.is_file():
            raise KeyError(name)
        return Response(path.read_bytes(), media_type=TYPES[path.suffix])


def _client(request: Request) -> str:
    named = request.headers.get("x-hesscomp-client", "")[:60]
    return named or (str(request.client.port) if request.client else "unnamed")


def _number(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name)
    try:
        number = default if text is None else float(text)
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise InputError(f"`{name}` {str(text)[:40]!r}: is not a finite number")
    return number


def application(
    front: Front, workspace: Workspace, token: str, hosts: tuple[str, ...] = ()
) -> Guard:
    """Return the ASGI application of a service."""
    doors = Doors(front, workspace)
    return Guard(Router(doors.routes()), token, doors.cookie, hosts)
