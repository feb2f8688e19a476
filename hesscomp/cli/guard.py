"""The `hesscomp` command as it is installed; a rank of an MPI job is watched."""

import signal
import sys

from hesscomp.cli.exits import INTERRUPTED
from hesscomp.cli.main import main as command
from hesscomp.parallel.watchdog.phase import in_words
from hesscomp.parallel.watchdog.rank_watchdog import RankDeath, run_watched
from hesscomp.parallel.watchdog.stop_signals import STOP_SIGNALS
from hesscomp.runs.slurm import REQUEUE

AGREED = (0, 2, 3, REQUEUE, INTERRUPTED)  # statuses with which all ranks end


def main() -> int:
    """Run the command of this process's command line; return its exit status."""
    can_resume = any(word.startswith("--run") for word in sys.argv)
    return run_watched(command, report_death, AGREED, STOP_SIGNALS if can_resume else ())


def report_death(death: RankDeath) -> None:
    """Print how a rank died, in one line."""
    text = f"hesscomp: error: rank {death.rank} on {death.host}"
    if death.signal == signal.SIGALRM:
        text += f" waited longer than --comm-timeout for other ranks{in_words(death.phase)}"
    else:
        text += f" was killed by {death.signal.name}{in_words(death.phase)}"
    if death.signal == signal.SIGKILL:
        text += "; where memory ran out, `hesscomp plan` says what a rank needs"
    print(text, file=sys.stderr, flush=True)
