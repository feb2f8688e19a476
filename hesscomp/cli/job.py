"""`hesscomp job`: a SLURM job script for the user's command, written and, if asked, submitted."""

import argparse
import importlib
import shlex
import subprocess
import sys

from hesscomp.cli import plan
from hesscomp.cli.main import COMMANDS, PARALLEL, parse
from hesscomp.errors import HesscompError, Incomplete, InputError
from hesscomp.parallel import import_mpi_unstarted
from hesscomp.runs.slurm import (
    LAUNCHERS,
    WARNING,
    Job,
    check_names,
    check_replaceable,
    fill_in,
    job_script,
)
from hesscomp.storage.files import atomic_path, check_writable, find_files

USAGE = "hesscomp job [options of the job] -- COMMAND [options of the command]"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = USAGE
    parser.epilog = (
        "COMMAND is a command of hesscomp with all its options, which are checked before the "
        "script is written. In them %j stands for the job's id, and %A and %a for those of an "
        "array and its task."
    )
    ask = parser.add_argument_group("allocation", "what is not given here, sbatch can be told")
    ask.add_argument("--name", metavar="NAME", help="of the job; default: hesscomp-COMMAND")
    ask.add_argument("--nodes", type=int, default=1, metavar="N", help="nodes")
    ask.add_argument("--ranks-per-node", type=int, default=1, metavar="R", help="MPI ranks on each")
    ask.add_argument(
        "--cpus-per-rank", type=int, default=1, metavar="C", help="CPUs, and threads, of a rank"
    )
    ask.add_argument("--time", default="1:00:00", metavar="T", help="such as 30, 2:00:00, 1-12")
    memory = ask.add_mutually_exclusive_group()
    memory.add_argument("--mem", metavar="SIZE", help="memory of a node, such as 64G")
    memory.add_argument(
        "--mem-per-cpu", metavar="SIZE", help="memory of a CPU, as hesscomp plan advises"
    )
    ask.add_argument("--partition", metavar="NAME")
    ask.add_argument("--account", metavar="NAME")
    run = parser.add_argument_group("run")
    run.add_argument("--launcher", choices=LAUNCHERS, default="srun", help="what starts the ranks")
    run.add_argument(
        "--stage", nargs="+", default=[], metavar="FILE",
        help="files of the command to copy to each node's $SLURM_TMPDIR first",
    )  # fmt: skip
    run.add_argument(
        "--warning", type=int, default=WARNING, metavar="S",
        help="seconds before the end of --time at which the ranks are told to save and end: more "
        "than a block product takes, as hesscomp plan says (default: %(default)s)",
    )  # fmt: skip
    run.add_argument(
        "--array", nargs="*", metavar="ITEM",
        help="a job array: a task for each argument of the script, which the command has as {}, or "
        "its last part as {name}; files or patterns given here are submitted",
    )  # fmt: skip
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="JOB.sbatch", help="the script; default: it is printed")
    output.add_argument("--submit", action="store_true", help="hand --out to sbatch")


def run(options: argparse.Namespace) -> int:
    if not options.words:
        raise InputError(
            "hesscomp job: no command follows after --, which keeps the command's options apart "
            f"from the job's; write {USAGE}"
        )
    if options.submit and options.out is None:
        raise InputError("--submit needs --out, the script that is submitted")
    if options.submit and options.array == []:
        raise InputError("--submit of an array needs its items: --array 'run/ckpt-*.h5'")
    if options.array and options.out is None:
        raise InputError("the items of --array go with --out, the script that is given them")
    if options.out is not None and options.out in options.words:
        raise InputError(
            f"--out {options.out}: is a file of the command too; give the script another name"
        )
    items = find_files(options.array or [], "--array")
    check_names("--array", items if any("{name}" in word for word in options.words) else [])
    parallel, missing = _check_command(options.words, items, options.submit)
    script = job_script(_job(options, parallel))
    needs = f"what hesscomp {options.words[0]} still needs on submission: {missing}"
    if options.out is None:
        print(script, end="")
        if missing:
            print(f"hesscomp: {needs}", file=sys.stderr)
        return 0
    check_writable(options.out)
    check_replaceable(options.out)
    with atomic_path(options.out) as temporary:
        temporary.write_text(script)
    print(f"wrote job script: {options.out}")
    if missing:
        print(needs)
    array = [f"--array=0-{len(items) - 1}"] if items else []
    words = ["sbatch", *array, "--", options.out, *items]
    if options.submit:
        _submit(words)
    elif options.array != []:
        print(f"submit it with: {shlex.join(words)}")
    return 0


def _check_command(words: list[str], items: list[str], submit: bool) -> tuple[bool, str]:
    """Refuse a command that its own parser or checks refuse, by all that is told without data.

    Returns whether it runs on MPI ranks, and what it lacks, which may follow unless it is
    submitted now.
    """
    name = words[0]
    if name not in COMMANDS or name == "job":
        raise InputError(f"hesscomp {name}: no such command; see hesscomp --help")
    import_mpi_unstarted()
    for item in items or ["1"]:
        options = parse([fill_in(word, item) for word in words], whole=submit)
        missing = ", ".join(options.missing)
        check = getattr(importlib.import_module(f"hesscomp.cli.{name}"), "check", None)
        if check is None or missing:
            continue
        try:
            check(options)
        except Incomplete as error:
            if submit:
                raise
            missing = str(error)
    return name in PARALLEL or (name == "plan" and plan.on_ranks(options)), missing


def _job(options, parallel: bool) -> Job:
    command = options.words[0]
    return Job(
        command=tuple(options.words),
        name=options.name or f"hesscomp-{command}",
        nodes=options.nodes,
        ranks_per_node=options.ranks_per_node,
        cpus_per_rank=options.cpus_per_rank,
        time=options.time,
        partition=options.partition,
        account=options.account,
        mem=options.mem,
        mem_per_cpu=options.mem_per_cpu,
        launcher=options.launcher,
        parallel=parallel,
        stage=tuple(options.stage),
        warning=options.warning,
        array=options.array is not None,
    )


def _submit(words: list[str]) -> None:
    try:
        done = subprocess.run(words)
    except FileNotFoundError as error:
        raise InputError("sbatch: no such program here; submit on a login node") from error
    if done.returncode:
        raise HesscompError(f"{shlex.join(words)}: ended with status {done.returncode}")
