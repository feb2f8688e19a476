"""What commands draw of a job that is done: made when it is first asked for, and kept beside it.

Another process makes it, so that the front loads no drawing library and answers others meanwhile.
"""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

from hesscomp.errors import InputError, one_line
from hesscomp.options import format_bytes
from hesscomp.parallel.resources import available_bytes
from hesscomp.service.front import Failed
from hesscomp.service.jobs import DONE, DRAWN, JobStore
from hesscomp.service.requests import FACTOR
from hesscomp.service.wire import Job

PICTURE, REPORT = "picture", "report"
COMMANDS = {PICTURE: ("plot", DRAWN[0]), REPORT: ("report", DRAWN[1])}
SECONDS = 120.0  # for which one drawing may take
COPIES = 3  # of a factor that is read whole, where it is drawn
PATIENCE = 5  # of its priority (nice): ranks and answers come first


class Drawings:
    """Pictures and reports of the jobs in a store; one is made at a time.

    Parameters
    ----------
    store : JobStore
    """

    def __init__(self, store: JobStore):
        self.store = store
        self._turn = asyncio.Lock()

    async def find(self, job: Job, what: str) -> Path:
        """Return the file of a job's picture or report.

        The picture is what `hesscomp plot` draws of the job's factor, or of a job without a factor
        the one that the job drew itself; the report is that of `hesscomp report`.

        Raises
        ------
        InputError
            Where the job is not done, or has nothing of the kind; for a factor that this host has
            no memory for.
        Failed
            Where the command fails, or takes longer than `SECONDS`.
        """
        folder = self.store.place(job)
        if job.state == DONE and FACTOR in job.files:
            command, name = COMMANDS[what]
            async with self._turn:
                if not await asyncio.to_thread((folder / name).exists):
                    await asyncio.to_thread(_check_memory, folder, job)
                    await _run(command, str(folder / FACTOR), "--out", str(folder / name))
            return folder / name
        own = [name for name in job.files if name.endswith(".png")]
        if what == PICTURE and own:
            return folder / own[0]
        raise InputError(f"job {job.id}, {job.kind}, is {job.state}: it has no {what}")


def _check_memory(folder: Path, job: Job) -> None:
    """Refuse a factor, of one file or in slabs, whose drawing takes memory from the ranks here."""
    stem = Path(FACTOR).stem
    size = sum((folder / name).stat().st_size for name in job.files if name.startswith(stem))
    free = available_bytes()
    if COPIES * size > free:
        raise InputError(
            f"job {job.id}: a factor of {format_bytes(size)} takes about "
            f"{format_bytes(COPIES * size)} to draw, and {format_bytes(free)} are free here; fetch "
            "it, and draw it elsewhere by hesscomp plot and hesscomp report"
        )


async def _run(*words: str) -> None:
    """Run a command of hesscomp, at a low priority."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hesscomp", *words, stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, PATIENCE)
        async with asyncio.timeout(SECONDS):
            _, said = await process.communicate()
    except TimeoutError:
        raise Failed(f"hesscomp {words[0]} took longer than {SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = said.decode(errors="replace").strip().splitlines()
        why = lines[-1] if lines else f"it ended with status {process.returncode}"
        raise Failed(one_line(f"hesscomp {words[0]}: {why.removeprefix('hesscomp: error: ')}"))
