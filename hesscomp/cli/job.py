"""`hesscomp job`: a SLURM job script for the user's command, written and, if asked, submitted."""

import argparse
import subprocess

from hesscomp.cli import plan
from hesscomp.cli.main import COMMANDS, PARALLEL
from hesscomp.errors import HesscompError, InputError
from hesscomp.runs.files import atomic_path, check_writable, find_files
from hesscomp.runs.slurm import LAUNCHERS, WARNING, Job, check_names, job_script


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "hesscomp job [options] -- COMMAND ..."
    parser.add_argument(
        "words", nargs="+", metavar="COMMAND ...",
        help="a command of hesscomp with its options, after --; in it %%j is the job's id, and "
        "%%A, %%a those of an array and its task",
    )  # fmt: skip
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
    command = options.words[0]
    if command not in COMMANDS or command == "job":
        raise InputError(f"hesscomp {command}: no such command; see hesscomp --help")
    if options.submit and options.out is None:
        raise InputError("--submit needs --out, the script that is submitted")
    if options.submit and options.array == []:
        raise InputError("--submit of an array needs its items: --array 'run/ckpt-*.h5'")
    script = job_script(_job(options))
    if options.out is None:
        print(script, end="")
        return 0
    items = find_files(options.array or [], "--array")
    check_names("--array", items if any("{name}" in word for word in options.words) else [])
    check_writable(options.out)
    with atomic_path(options.out) as temporary:
        temporary.write_text(script)
    print(f"wrote job script: {options.out}")
    if options.submit:
        _submit(options.out, items)
    return 0


def _job(options) -> Job:
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
        parallel=command in PARALLEL or (command == "plan" and plan.on_ranks(options.words)),
        stage=tuple(options.stage),
        warning=options.warning,
        array=options.array is not None,
    )


def _submit(script: str, items: list[str]) -> None:
    array = [f"--array=0-{len(items) - 1}"] if items else []
    try:
        done = subprocess.run(["sbatch", *array, "--", script, *items])
    except FileNotFoundError as error:
        raise InputError("sbatch: no such program here; submit on a login node") from error
    if done.returncode:
        raise HesscompError(f"sbatch {script}: ended with status {done.returncode}")
