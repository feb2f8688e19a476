"""The commands: what each is for, in one line, and examples of its use."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

SHOWN = 3  # commands that a message names, at most
WIDTH = 78
OWN = "--loss sparse_categorical_crossentropy --data d.npz"  # of a user's classifier


@dataclass(frozen=True)
class Command:
    """What a command does, in one line, and command lines by what they do."""

    summary: str
    examples: dict[str, str]
    parallel: bool = False  # whether it runs on MPI ranks
    module: str = ""  # of `hesscomp.cli`; by default the command's name


PURPOSES = {
    "fit": {
        "newton": Command(
            "fit logistic and other regressions, with their statistics",
            {
                "Fit the packaged data set adult, and keep a factor": "mpiexec "
                "-n 2 hesscomp newton --data adult --factor-out f.h5",
                "Fit a table, print standard errors and odds ratios, keep the model": "hesscomp "
                "newton --data train.csv --intercept --ridge 0 --model-out m.h5",
                "Fit your own rows, and measure the accuracy on others": "hesscomp newton "
                "--data train.csv --label income --test test.csv --ridge 1e-4 --json r.json",
            },
            parallel=True,
        ),
        "predict": Command(
            "predict rows by a linear model that newton wrote",
            {
                "Probabilities and intervals of other rows": "mpiexec -n 2 hesscomp predict m.h5 "
                "--data new.csv --out p.csv",
            },
            parallel=True,
        ),
        "train": Command(
            "train a problem with a first- or second-order optimizer",
            {
                "Train a named network; the same command resumes": "mpiexec -n 2 hesscomp train "
                "--problem mnist-mlp --optimizer hessian-free --run run",
                "Train your own model on batches of a tenth of the rows": "hesscomp train "
                f"--model m.keras {OWN} --optimizer adam --set learning_rate=1e-3 "
                "--gradient-batch 0.1",
                "List an optimizer's options": "hesscomp train --optimizer newton-cg --set help",
            },
            parallel=True,
        ),
    },
    "compress and measure": {
        "compress": Command(
            "compress a Hessian to a certified factor",
            {
                "The 20 leading eigenpairs of your own model's Hessian": "mpiexec -n 2 hesscomp "
                f"compress --model m.keras {OWN} --rank 20 --out f.h5",
                "The smallest rank whose error is at most 1% of the norm": "hesscomp compress "
                "--data adult --tolerance 1e-2 --out f.h5",
                "Whichever format is smaller, low-rank or hierarchical": "mpiexec -n 2 hesscomp "
                f"compress --model m.keras {OWN} --tolerance 0.05 --format auto --out f.h5",
            },
            parallel=True,
            module="curvature",
        ),
        "diagonal": Command(
            "make a certified factor of a Hessian's diagonal",
            {
                "Estimate the diagonal from 64 products": "hesscomp diagonal --data adult "
                "--columns 64 --out d.h5",
                "The diagonal of a model's Gauss-Newton matrix": "mpiexec -n 2 hesscomp diagonal "
                f"--model m.keras {OWN} --operator ggn --out d.h5",
            },
            parallel=True,
            module="curvature",
        ),
        "update": Command(
            "bring a factor up to date with new data or a new point",
            {
                "Add 10 eigenpairs for more data": "hesscomp update f.h5 --data more.csv "
                "--rank 10 --out g.h5",
                "Follow a model to its new weights": "mpiexec -n 2 hesscomp update f.h5 "
                f"--model m.keras {OWN} --at later.weights.h5 --out g.h5",
            },
            parallel=True,
            module="curvature",
        ),
        "spectrum": Command(
            "estimate and draw the spectral density of a Hessian",
            {
                "The density of all eigenvalues, and the trace": "mpiexec -n 2 hesscomp spectrum "
                f"--model m.keras {OWN} --out density.png",
                "With log det(H + 0.001 I), and a factor's eigenvalues": "hesscomp spectrum "
                "--data adult --at f.h5 --factor f.h5 --shift 1e-3 --out density.png",
            },
            parallel=True,
            module="curvature",
        ),
        "sensitivity": Command(
            "find the rows, labels and columns that a model rests on",
            {
                "The rows that matter most for the loss on test rows": "mpiexec -n 2 hesscomp "
                "sensitivity --data adult --ridge 1e-3",
                "Leverage, Cook's distance and error bars of your own model": "hesscomp "
                f"sensitivity --model m.keras {OWN} --operator ggn --ridge 1e-3 --leverage "
                "--laplace --out s.h5",
            },
            parallel=True,
            module="curvature",
        ),
    },
    "look": {
        "inspect": Command(
            "show the contents of a factor file",
            {
                "Show the certificate and the 10 leading eigenvalues": "hesscomp inspect f.h5",
                "Show more eigenvalues": "hesscomp inspect f.h5 --leading 40",
            },
            module="serial",
        ),
        "report": Command(
            "write an HTML page about a factor: spectrum, error, costs",
            {"Write a page that a browser shows": "hesscomp report f.h5 --out f.html"},
            module="serial",
        ),
        "plot": Command(
            "draw a factor's spectrum, or the convergence of a run",
            {
                "Draw a spectrum": "hesscomp plot f.h5 --out spectrum.png",
                "Draw the convergence of hesscomp train": "hesscomp plot run --out run.pdf",
            },
            module="serial",
        ),
        "compare": Command(
            "compare two factor files: eigenvalues, subspaces, provenance",
            {
                "Compare eigenvalues and subspaces": "hesscomp compare f.h5 g.h5",
                "Compare the 5 leading eigenvectors, with a picture": "hesscomp compare f.h5 g.h5 "
                "--subspace 5 --plot angles.png",
            },
            module="serial",
        ),
        "figure": Command(
            "draw a compression's error beside the smallest possible",
            {
                "Compress a named network, at its trained weights": "mpiexec -n 2 hesscomp figure "
                "mnist-hessian --out figure.png",
            },
            parallel=True,
            module="curvature",
        ),
    },
    "use factors": {
        "solve": Command(
            "solve with a factor: (F + shift I) X = B",
            {
                "Solve for the gradients in g.npy, with a ridge of 0.001": "hesscomp solve f.h5 "
                "--rhs g.npy --shift 1e-3 --out d.npy",
            },
            module="serial",
        ),
        "merge": Command(
            "join factor files into one trajectory file",
            {"Join all factors of a run": "hesscomp merge 'out/*.h5' --out trajectory.h5"},
            module="serial",
        ),
        "repack": Command(
            "gather a factor stored in several files into one file",
            {
                "Gather the files of all ranks": "hesscomp repack f.h5",
                "Write a smaller copy": "hesscomp repack f.h5 --dtype float32 --compress "
                "--out small.h5",
            },
            module="serial",
        ),
    },
    "serve": {
        "serve": Command(
            "keep ranks with a problem, and answer many clients",
            {
                "A service on 2 ranks": "hesscomp serve svc --ranks 2 -- --problem mnist-mlp",
                "With a page for browsers, on this host": "hesscomp serve svc --ranks 2 --port 0 "
                "-- --data adult --reproducible",
            },
        ),
        "submit": Command(
            "queue a job of a service",
            {"Compress at the initial point": "hesscomp submit svc -- compress --rank 20"},
            module="clients",
        ),
        "jobs": Command(
            "list the jobs of a service", {"List them": "hesscomp jobs svc"}, module="clients"
        ),
        "wait": Command(
            "wait for the end of a job of a service",
            {"Wait a minute at most": "hesscomp wait svc j000001 --seconds 60"},
            module="clients",
        ),
        "cancel": Command(
            "cancel a job of a service",
            {"Cancel it": "hesscomp cancel svc j000001"},
            module="clients",
        ),
        "fetch": Command(
            "fetch the files of a job of a service",
            {
                "List them": "hesscomp fetch svc j000001",
                "Fetch the factor": "hesscomp fetch svc j000001 --file factor.h5 --out f.h5",
            },
            module="clients",
        ),
        "page": Command(
            "print the address of a service's page",
            {
                "The address, with the token": "hesscomp page svc",
                "By another port of this computer": "hesscomp page svc --local-port 8123",
            },
        ),
        "drain": Command(
            "end a service; its jobs go on with its next start",
            {"End it": "hesscomp drain svc"},
            module="clients",
        ),
    },
    "prepare": {
        "data": Command(
            "describe a data set and its division among ranks",
            {
                "Describe a file, and what each of 64 ranks would hold": "hesscomp data train.csv "
                "--label income --ranks 64",
            },
            parallel=True,
        ),
        "problems": Command(
            "list the named problems: data, network, loss, training",
            {"List them": "hesscomp problems"},
            module="serial",
        ),
        "plan": Command(
            "predict memory, communication and time of a compression",
            {
                "From sizes alone": "hesscomp plan --n 1e8 --rows 1e6 --rank 200 --ranks 4096 "
                "--memory 32G",
                "From the problem itself, timed here, for 64 ranks": "hesscomp plan "
                f"--model m.keras {OWN} --rank 100 --ranks 64 -- --operator ggn",
            },
        ),
        "job": Command(
            "write a SLURM job script for a command, and submit it",
            {
                "Submit a compression on 32 ranks": "hesscomp job --nodes 4 --ranks-per-node 8 "
                "--time 2:00:00 --out f.sbatch --submit -- compress --data rows.h5 --rank 100 "
                "--out f.h5",
                "Print the script only": "hesscomp job -- report f.h5 --out f.html",
            },
        ),
        "doctor": Command(
            "check MPI, TensorFlow, HDF5 and SLURM on this machine",
            {"Check this machine, and say what to do": "hesscomp doctor"},
        ),
        "completion": Command(
            "print a script with which a shell completes command lines",
            {
                "For bash": "hesscomp completion bash > "
                "~/.local/share/bash-completion/completions/hesscomp",
                "For zsh, where ~/.zfunc is in $fpath": "hesscomp completion zsh > "
                "~/.zfunc/_hesscomp",
            },
        ),
    },
}
COMMANDS = {name: command for group in PURPOSES.values() for name, command in group.items()}
PARALLEL = tuple(name for name, command in COMMANDS.items() if command.parallel)
WRAPPERS = ("job", "plan", "serve", "submit")  # another command's words follow after a --
EXAMPLES = {
    "Fit logistic regression, compress its Hessian, and look at it": "mpiexec -n 2 hesscomp newton "
    "--data adult --factor-out f.h5\nhesscomp inspect f.h5",
    "Compress the Hessian of your own classifier, and look at it": "mpiexec -n 2 hesscomp compress "
    f"--model m.keras {OWN} --out f.h5\nhesscomp report f.h5 --out f.html",
}
NOTES = (
    "'hesscomp COMMAND --help' shows a command's options with examples, and 'hesscomp --version' "
    "the version. Commands marked (MPI) run on several ranks under mpiexec or srun. Exit status: "
    "0 done and converged, 1 a failure, 2 bad input or usage, 3 not converged (a plan: does not "
    "fit), 75 stopped by a signal, the same command resumes (--run), 130 interrupted (Ctrl-C), 141 "
    "the reader of the output closed it."
)


def overview(what: str) -> str:
    """Return the help of `hesscomp` itself: what it is, its commands by purpose, and examples."""
    lines = ["usage: hesscomp COMMAND [options]", "", *textwrap.wrap(what, WIDTH)]
    for purpose, commands in PURPOSES.items():
        lines += ["", f"{purpose}:"]
        for name, command in commands.items():
            lines.append(f"  {name:<11} {command.summary}{' (MPI)' * command.parallel}")
    return "\n".join([*lines, "", *example_lines(EXAMPLES), "", *textwrap.wrap(NOTES, WIDTH), ""])


def example_lines(examples: dict[str, str]) -> list[str]:
    """Return examples as lines for a terminal; long command lines go on after a backslash."""
    shown = ["examples:"]
    for does, lines in examples.items():
        shown.append(f"  {does}:")
        for line in lines.splitlines():
            tied = re.sub(r"( --?[\w-]+) (?=[^-\s])", "\\1\0", line)  # an option and its value
            parts = textwrap.wrap(tied, WIDTH - 8, break_long_words=False, break_on_hyphens=False)
            shown.append("    " + " \\\n        ".join(parts).replace("\0", " "))
    return shown


def not_there(kind: str, name: str, near: str | None, owners: Sequence[str] = ()) -> str:
    """Say that there is no such command or option, what may be meant, and who has it."""
    said = f"no {kind} {name}" + (f"; did you mean {near}?" if near else ";" if owners else "")
    return f"{said} {_have(owners, name if near else 'it')}" if owners else said


def _have(owners: Sequence[str], option: str) -> str:
    more = [f"{len(owners) - SHOWN} more"] if len(owners) > SHOWN else []
    *most, last = [*owners[:SHOWN], *more]
    return (
        f"hesscomp {', '.join(most)} and {last} have {option}"
        if most
        else (f"hesscomp {last} has {option}")
    )
