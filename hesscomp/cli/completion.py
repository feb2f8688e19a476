"""`hesscomp completion`: scripts with which bash and zsh complete commands, options and choices.

A script is static: a press of Tab starts no Python. It comes from the parsers, by shtab.
"""

import argparse
import re
from dataclasses import dataclass

from hesscomp.cli.main import whole_parser
from hesscomp.datasets.load import NAMED
from hesscomp.options import Options, option
from hesscomp.parallel import import_mpi_unstarted
from hesscomp.problems.catalogue import EQUATIONS, NAMED_PROBLEMS

SHELLS = ("bash", "zsh")
FILES = r"\.\w+|FILE|FOLDER|RUN|MODEL|DATA|ITEM"  # in the placeholder of what may be a file
NAMES = {
    "data": tuple(NAMED),
    "problem": (*NAMED_PROBLEMS, *EQUATIONS),
}  # that stand for a file or a module
WRAPPED = """
_hesscomp() {  # after a --, as in hesscomp job -- COMMAND, stands another command
  local i cword=$COMP_CWORD words=("${COMP_WORDS[@]}")
  for ((i = 2; i < COMP_CWORD; i++)); do
    if [[ ${COMP_WORDS[i]} == -- ]]; then
      words=(hesscomp "${COMP_WORDS[@]:i+1}") cword=$((COMP_CWORD - i))
      break
    fi
  done
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$cword
  _shtab_hesscomp
}
complete -o bashdefault -F _hesscomp hesscomp"""
EPILOG = (
    "Then start the shell anew, and make the script anew with each version of hesscomp. zsh finds "
    "the script in a folder of its $fpath."
)


@dataclass(frozen=True, kw_only=True)
class CompletionRequest(Options):
    """Which shell's script to print."""

    shell: str = option(flag="shell", choices=SHELLS, help="the shell that completes")


def run_completion(request: CompletionRequest) -> int:
    print(script(request.shell))
    return 0


def script(shell: str) -> str:
    """Return the script that completes hesscomp's command lines in a shell."""
    import shtab

    import_mpi_unstarted()  # the parsers of commands that run on ranks know the type of these
    parser, commands = whole_parser()
    for command in commands.values():
        for action in command._actions:
            if action.nargs != 0 and action.choices is None:
                values = _values(action)
                if values:
                    action.complete = values  # type: ignore[attr-defined]  # shtab's
    return shtab.complete(parser, shell) + (WRAPPED if shell == "bash" else "")


def _values(action: argparse.Action) -> dict | None:
    """Return how shtab completes the values of an option that has no fixed choices."""
    import shtab

    placeholder = str(action.metavar)
    words = [word for word in placeholder.split("|") if re.fullmatch(r"[a-z][a-z-]*", word)]
    words += NAMES.get(action.dest, ())
    files = re.search(FILES, placeholder) is not None
    if not words:
        return shtab.FILE if files else None
    name = "_hesscomp_" + "file_or_" * files + "_".join(words).replace("-", "_")
    bash = f"  compgen -W '{' '.join(words)}' -- \"$1\"\n" + '  compgen -f -- "$1"\n' * files
    zsh = f"  _alternative 'words:value:({' '.join(words)})'{' files:file:_files' * files}\n"
    bodies = {"bash": bash, "zsh": zsh}
    preamble = {shell: f"{name}() {{\n{body}}}\n" for shell, body in bodies.items()}
    return {"bash": name, "zsh": name, "preamble": preamble}
