"""The front's side of the ranks: it starts them, talks with rank 0, and starts them again."""

import asyncio
import ctypes
import os
import platform
import re
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel import threads_of_environment
from hesscomp.service.wire import HEAD, lengths, pack, unpack

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)
READ = 2**24  # bytes that are read ahead of an answer, in place of 64 KB: blocks are megabytes
STARTS = 3  # that may fail in a row before the service gives up
PAUSES = (0.0, 1.0, 5.0)  # seconds before each of them
LOOKS = 2.0  # seconds between two looks at the ranks' processes
ENDED = ("", "Z", "X")  # states of processes: gone, or not waited for
STOPPED = 10.0  # seconds for which rank 0 may be stopped
TAIL = 2**14  # bytes of the log in which a death is looked for
SAID = re.compile(r"^.*hesscomp: error: (.*)$", re.MULTILINE)


def launch_words(
    launcher: str, ranks: int | None, address: str, words: tuple[str, ...]
) -> list[str]:
    """Return the command line that starts the ranks; without their number 1, or srun's own."""
    rank = [sys.executable, "-m", "hesscomp.cli.rank", address, *words]
    if launcher == "srun":
        how = os.environ.get("HESSCOMP_SRUN_MPI", "pmi2")
        threads = threads_of_environment() or 1
        number = [] if ranks is None else [f"--ntasks={ranks}"]
        return ["srun", f"--mpi={how}", *number, f"--cpus-per-task={threads}", "--wait=10", *rank]
    beside = Path(sys.executable).with_name(launcher)
    program = str(beside) if beside.exists() else launcher
    return [program, "-n", str(ranks or 1), *rank]


class Ranks:
    """The ranks of a service, and the connection to rank 0.

    Parameters
    ----------
    listener : socket
        At which rank 0 arrives.
    words : callable
        Returns the command line that starts them; None: somebody else does.
    log : path
    hear : callable
        Called with each frame of rank 0, its header and its arrays.
    lost : callable
        Called with one line when the ranks have ended unasked.
    """

    def __init__(
        self,
        listener: socket.socket,
        words: list[str] | None,
        log: Path,
        hear: Callable[[dict[str, Any], list[np.ndarray]], None],
        lost: Callable[[str], None],
    ):
        self.listener, self.words, self.log = listener, words, log
        self._hear, self._lost = hear, lost
        self.writer: asyncio.StreamWriter | None = None
        self.process: asyncio.subprocess.Process | None = None
        self.known: list[dict[str, Any]] = []  # rank, host, pid, ... of each, as rank 0 said
        self.ending = False

    @property
    def ready(self) -> bool:
        """Whether rank 0 is connected."""
        return self.writer is not None

    def send(self, header: dict[str, Any], *arrays: np.ndarray) -> None:
        """Send a frame to rank 0."""
        if self.writer is not None:
            self.writer.writelines(pack(header, arrays))

    async def run(self) -> None:
        """Keep the ranks running until `end`.

        Raises
        ------
        InputError
            Where they do not start, `STARTS` times in a row; it says what they said.
        """
        server = await asyncio.start_unix_server(self._arrived, sock=self.listener, limit=READ)
        failures = 0
        try:
            while not self.ending:
                await asyncio.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
                if self.ending:
                    break
                met = await self._run_once()
                failures = 0 if met else failures + 1
                if not self.ending:
                    why = self._last_words()
                    self._lost(why)
                    if failures >= STARTS:
                        raise InputError(f"the ranks do not start: {why}")
        finally:
            server.close()

    async def _run_once(self) -> bool:
        """Start the ranks, and return when they have ended; whether rank 0 had come."""
        self._met, self._gone, self.known = False, asyncio.Event(), []
        if self.words is None:
            await self._gone.wait()
            return self._met
        with open(self.log, "ab") as log:
            log.write(f"--- {time.strftime('%F %T')} {shlex.join(self.words)}\n".encode())
            log.flush()
            self._from = log.tell()
            try:
                self.process = await asyncio.create_subprocess_exec(
                    *self.words, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, preexec_fn=_die_with_parent,
                )  # fmt: skip
            except OSError as error:
                raise InputError(
                    f"{self.words[0]}: cannot be started ({error.strerror}); is it in PATH?"
                ) from error
        watch = asyncio.create_task(self._watch())
        try:
            await self.process.wait()
        finally:
            watch.cancel()
            self.kill()  # what the launcher left
        if self.writer is not None:
            self.writer.close()
            self.writer = None
            await self._gone.wait()  # else the end of this connection would end the next start
        return self._met

    async def _watch(self) -> None:
        """End the ranks where the connection is lost while they run, or rank 0 stays stopped."""
        stopped = 0.0
        ended: list[int] = []  # the ranks that had ended when first any had
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gone.wait(), LOOKS)
            states = self._states()
            ended = ended or [rank for rank, state in states.items() if state in ENDED]
            if self._gone.is_set():
                faults = [f"rank {rank} was stopped" for rank in states if states[rank] == "T"]
                faults += [f"rank {rank} has ended" for rank in ended or [0]]
                await asyncio.sleep(LOOKS)  # the launcher may end by itself, and say more
                self._give_up(", ".join(faults))
                return
            stopped = stopped + LOOKS if states.get(0) == "T" else 0.0
            if stopped > STOPPED:
                self._give_up(f"rank 0 was stopped for {stopped:.0f} s")
                return

    def _states(self) -> dict[int, str]:
        """Return the states of the processes of this host's ranks."""
        here = [each for each in self.known if each["host"] == platform.node()]
        return {each["rank"]: _state(each["pid"]) for each in here}

    def _give_up(self, why: str) -> None:
        """End all processes at once, and let the log say why."""
        if not self.ending:
            with open(self.log, "a") as log:
                log.write(f"hesscomp: error: {why}\n")
        self.kill()

    async def _arrived(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hear rank 0 until it ends."""
        try:
            while True:
                head = lengths(await reader.readexactly(HEAD.size))
                header, payload = [await reader.readexactly(length) for length in head]
                known, arrays = unpack(header, payload)
                if known["say"] == "hello":
                    self.writer, self._met = writer, True
                    self.known = known["ranks"]
                self._hear(known, arrays)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            if self.writer is writer:
                self.writer = None
            self._gone.set()

    def end(self) -> None:
        """Let the ranks end after what is under way; at once where rank 0 is not connected."""
        self.ending = True
        if self.ready:
            self.send({"do": "end"})
        else:
            self.kill()

    def kill(self) -> None:
        """End the launcher and its ranks at once.

        Those of mpiexec are in its session. Those of srun are not: a child of srun, which outlives
        it here, ends its step; else their CPUs stay taken, and the next srun waits for them.
        """
        if self.process is not None and self.words is not None:
            with suppress(ProcessLookupError):
                if self.words[0] == "srun":
                    self.process.kill()
                else:
                    os.killpg(self.process.pid, signal.SIGKILL)

    def _last_words(self) -> str:
        """Return what the ranks said last of why they ended."""
        if self.words is None:
            return "the ranks have ended"
        with open(self.log, "rb") as log:
            log.seek(max(self._from, log.seek(0, os.SEEK_END) - TAIL))
            text = log.read().decode(errors="replace")
        found = SAID.findall(text)
        status = None if self.process is None else self.process.returncode
        return (
            found[0][:500] if found else f"the launcher ended with status {status}; see {self.log}"
        )


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)


def _state(pid: int) -> str:
    """Return the letter for what a process of this host does; none where it has gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]
