"""The process of the front: uvicorn on sockets of our own, deadlines, signals, the inbox."""

import asyncio
import logging
import os
import re
import resource
import signal
import socket
import ssl
import struct
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import h11
import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from hesscomp.errors import InputError, describe
from hesscomp.runs.slurm import REQUEUE
from hesscomp.service.batching import WorkQueue
from hesscomp.service.front import Failed, Front, Unavailable
from hesscomp.service.http import ANSWER_SECONDS, LEAVING, MOST_JSON, application, refusal
from hesscomp.service.jobs import Full, JobStore
from hesscomp.service.options import LOOPBACK, ServiceOptions
from hesscomp.service.points import Points
from hesscomp.service.ranks import Ranks, launch_words
from hesscomp.service.requests import ServedProblem
from hesscomp.service.wire import JobBody
from hesscomp.service.workspace import Workspace

log = logging.getLogger(__name__)

HEAD_SECONDS = 10.0  # in which the head of a request must have come
BODY_SECONDS = 60.0  # in which a whole body must have come
KEPT_ALIVE = 120  # seconds for which a connection without requests stays open
MOST_HEAD = 2**14  # bytes of a head
CONNECTIONS = 512  # of one door; those that are open go on, and one more is refused
TOLD = 16  # connections beyond them that are told so; more are closed at once
DESCRIPTORS = 4096  # that the process may open, where its hard limit allows it
SPARE = 128  # of them that connections leave for files, ranks and drawings
POINT_BYTES = 2.0**30
INBOX_SECONDS = 1.0
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
CERTIFICATES = re.compile("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
END_SECONDS = 20.0  # for which the ranks may take to end when they are told


class Protocol(H11Protocol):
    """HTTP/1.1 of clients of this user alone, who send requests and take answers in time."""

    awaited = ""  # what of a request has begun to come
    deadline: asyncio.TimerHandle | None = None  # of that
    taking: asyncio.TimerHandle | None = None  # the deadline of an answer that is not all taken

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX and _user_of(peer) not in (os.getuid(), 0):
            transport.abort()
            return
        if len(self.connections) > CONNECTIONS:  # uvicorn would refuse all requests, without help
            self.app = crowded
        transport.set_write_buffer_limits(high=1)  # so that `pause_writing` tells of each answer
        self._watch()

    def handle_events(self) -> None:
        super().handle_events()
        self._watch()

    def on_response_complete(self) -> None:
        if self.conn.their_state is h11.SEND_BODY:  # nobody reads what is to come
            self.transport.close()
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.taking = self.loop.call_later(ANSWER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.taking is not None:
            self.taking.cancel()

    def connection_lost(self, exc) -> None:
        self._unwatch()
        super().connection_lost(exc)
        if self.taking is not None:
            self.taking.cancel()
        if self.cycle is not None and not self.cycle.response_complete:
            for leave in self.cycle.scope["state"].get(LEAVING, ()):
                leave()

    def _watch(self) -> None:
        """Limit the time for a head, from its first byte or the connection's start, and a body."""
        state, awaited = self.conn.their_state, ""
        if state is h11.SEND_BODY:
            awaited = "body"
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            awaited = "head"
        if awaited != self.awaited:
            self._unwatch()
            self.awaited = awaited
            if awaited:
                seconds = HEAD_SECONDS if awaited == "head" else BODY_SECONDS
                self.deadline = self.loop.call_later(seconds, self._refuse, seconds)

    def _refuse(self, seconds: float) -> None:
        """Say that a head or a body comes too late, where no answer has begun, and close."""
        text = f"the {self.awaited} of a request did not come within {seconds:g} s"
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            answer = refusal(408, text)
            headers = [b": ".join(header) for header in answer.raw_headers]
            parts = [b"HTTP/1.1 408 Request Timeout", *headers, b"", bytes(answer.body)]
            self.transport.write(b"\r\n".join(parts))
        self.transport.close()

    def _unwatch(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None


async def crowded(scope, receive, send) -> None:
    """Answer requests of a connection that is one too many."""
    text = f"{CONNECTIONS} connections are open already; close some, or ask again"
    await refusal(503, text)(scope, receive, send)


def _user_of(peer: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    size = struct.calcsize("3i")
    return struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]


class Door(socket.socket):
    """A listening socket that closes connections far beyond the limit, before TLS or HTTP."""

    accepted: tuple[socket.socket, ...] = ()  # those that are open, and what closed lately

    def accept(self) -> tuple[socket.socket, Any]:
        peer, address = super().accept()
        self.accepted = *(each for each in self.accepted if each.fileno() >= 0), peer
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if len(self.accepted) > CONNECTIONS + TOLD or peer.fileno() >= descriptors - SPARE:
            peer.close()
            raise ConnectionAbortedError
        return peer, address


class Server(uvicorn.Server):
    """uvicorn without its signal handlers: it would raise the signals again after the end."""

    def capture_signals(self):
        return nullcontext()


def made_server(app, **options) -> Server:
    """Return a server of an application, with this service's limits and no log of requests."""
    return Server(
        uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
            log_level="critical", server_header=False, date_header=False, proxy_headers=False,
            timeout_keep_alive=KEPT_ALIVE, timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=MOST_HEAD, **options,
        )
    )  # fmt: skip


class Service:
    """A running service: front, ranks and doors.

    Parameters
    ----------
    options : ServiceOptions
    served : ServedProblem
    words : tuple of str
        The words of the command line that named the problem, for the ranks.
    say : callable
        Called with lines for whoever started it.
    own_ranks : bool
        Whether it starts the ranks; else they come by themselves.
    """

    def __init__(
        self,
        options: ServiceOptions,
        served: ServedProblem,
        words: tuple[str, ...],
        say: Callable[[str], None],
        own_ranks: bool = True,
    ):
        self.options, self.say = options, say
        self.workspace = Workspace.made(options.folder)
        self._lock = self.workspace.lock()
        self.workspace.remove_answers()
        self.token = self.workspace.token()
        self.front = Front(
            served,
            JobStore(self.workspace.jobs),
            Points(options.point_memory or POINT_BYTES),
            WorkQueue(not options.no_batching),
        )
        self.door = Door(fileno=self.workspace.bound("service.sock").detach())
        listener = self.workspace.bound("ranks.sock")
        self.address = listener.getsockname()
        launch = launch_words(options.launcher, options.ranks, self.address, words)
        self.front.ranks = self.ranks = Ranks(
            listener, launch if own_ranks else None, self.workspace.log, self.front.hear,
            self.front.lost,
        )  # fmt: skip
        self.url: str | None = None

    async def run(self) -> int:
        """Serve until `drain`; return the exit status."""
        host = self.options.host.lower()
        hosts = () if host == LOOPBACK else (f"[{host}]" if ":" in host else host,)
        app = application(self.front, self.workspace, self.token, hosts)
        servers = [(made_server(app), self.door)]
        if self.options.port is not None:
            servers.append(self._on_port(app))
        serving = [asyncio.create_task(server.serve([door])) for server, door in servers]
        while not all(server.started for server, _ in servers):
            failed, _ = await asyncio.wait(serving, timeout=0.005)
            for each in failed:
                if isinstance(why := each.exception(), ssl.SSLError):
                    files = f"{self.options.certificate}, {self.options.key}"
                    raise InputError(f"{files}: no certificate and its key ({why})") from why
                each.result()
        certificates = certificates_of(self.options.certificate)
        self.workspace.announce(self.door.getsockname(), self.url, certificates)
        self.say(f"service: {self.workspace.folder}" + (f", {self.url}" if self.url else ""))
        ranks = asyncio.create_task(self.ranks.run())
        inbox = asyncio.create_task(self._watch_inbox())
        drained = asyncio.create_task(self.front.drained.wait())
        try:
            await asyncio.wait([ranks, drained], return_when=asyncio.FIRST_COMPLETED)
            inbox.cancel()
            self.front.drain()
            self.ranks.end()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(ranks), END_SECONDS)
        finally:
            self.ranks.kill()
            self.front.events.close()
            for server, _ in servers:
                server.should_exit = True
            await asyncio.gather(*serving, return_exceptions=True)
            await self.front.settled()
            await asyncio.to_thread(self.front.store.close)
            self.workspace.withdraw()
            os.close(self._lock)
        if ranks.done() and ranks.exception() is not None:
            raise ranks.exception()  # type: ignore[misc]
        waits = self.front.unfinished or any(self.workspace.inbox())
        return REQUEUE if waits else 0

    def _on_port(self, app) -> tuple[Server, Door]:
        options = self.options
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        for path in filter(None, (options.certificate, options.key)):
            if not os.access(path, os.R_OK):
                raise InputError(f"{path}: cannot be read; TLS needs the certificate and its key")
        door = Door(family, socket.SOCK_STREAM)
        door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            door.bind((options.host, options.port))
        except OSError as error:
            raise InputError(
                f"`port` {options.port}: cannot be used ({error.strerror}); take another, or 0"
            ) from error
        scheme = "http" if options.certificate is None else "https"
        host = f"[{options.host}]" if ":" in options.host else options.host
        self.url = f"{scheme}://{host}:{door.getsockname()[1]}"
        files = {"ssl_certfile": options.certificate, "ssl_keyfile": options.key}
        return made_server(app, **{name: file for name, file in files.items() if file}), door

    async def _watch_inbox(self) -> None:
        """Take in jobs that clients without a connection have left."""
        told = ""
        while True:
            try:
                for path in await asyncio.to_thread(lambda: list(self.workspace.inbox())):
                    await self._take_in(path)
            except (Unavailable, Full):  # what is left stays for later
                pass
            except Exception as why:  # a full disk, a folder that has gone: so it does then
                if told != str(why):
                    told = str(why)
                    log.warning("inbox: jobs wait: %s", told)
            await asyncio.sleep(INBOX_SECONDS)

    async def _take_in(self, path: Path) -> None:
        """Queue a job of the inbox; set one aside that no later look could queue."""
        try:
            body = await asyncio.to_thread(_left_in, path)
            await self.front.add_job(body, "inbox")
        except (Unavailable, Full, Failed):
            raise
        except Exception as why:
            text = _reason(why)
            log.warning("inbox: %s is refused: %s", path.name, text)
            with suppress(FileNotFoundError):  # its client has taken it back
                self.workspace.refuse(path, text)
        else:
            path.unlink(missing_ok=True)


def _left_in(path: Path) -> JobBody:
    """Return the job that a file of the inbox holds."""
    with open(path, "rb") as file:
        text = file.read(MOST_JSON + 1)
    if len(text) > MOST_JSON:
        raise InputError(f"a job has at most {MOST_JSON} bytes")
    return msgspec.json.decode(text, type=JobBody)


def _reason(why: Exception) -> str:
    """Return why a job of the inbox is refused."""
    if isinstance(why, KeyError):
        return f"{why.args[0]}: the service holds no such point"
    return str(why) if isinstance(why, msgspec.MsgspecError | UnicodeError) else describe(why)


def certificates_of(path: str | None) -> list[str]:
    """Return the certificates of a file, and nothing else that it may hold, such as a key."""
    return CERTIFICATES.findall(Path(path).read_text()) if path is not None else []


def raise_descriptors() -> None:
    """Let the process open as many files and sockets as it may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, DESCRIPTORS)), hard))


def serve(
    options: ServiceOptions,
    served: ServedProblem,
    words: tuple[str, ...],
    say: Callable[[str], None],
) -> int:
    """Run a service until it is drained; return 75 where jobs wait for its next start, else 0.

    Raises
    ------
    InputError
        For a folder, a port or ranks that cannot be used.
    """
    raise_descriptors()
    service = Service(options, served, words, say)

    async def run() -> int:
        for number in SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, service.front.drain)
        return await service.run()

    return asyncio.run(run())
