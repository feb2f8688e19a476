"""What bash completes with the script of `hesscomp completion bash`."""

import shutil

import pytest

from hesscomp.cli.main import main

ASK = """
source "$1"
shift
function=$(complete -p hesscomp | sed 's/.*-F \\([^ ]*\\).*/\\1/')
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
$function
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A folder with the scripts of both shells, and a file in it."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "factor.h5").touch()
    for shell in ("bash", "zsh"):
        with pytest.MonkeyPatch.context() as patch, open(folder / shell, "w") as out:
            patch.setattr("sys.stdout", out)
            assert main(["completion", shell]) == 0
    return folder


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("com", {"compress", "compare", "completion"}),
        ("compress --max-", {"--max-rank", "--max-columns", "--max-basis"}),
        ("compress --data adult --layout ", {"auto", "replicated", "rows"}),
        ("train --optimizer newton", {"newton", "newton-cg"}),
        ("compress --data mnist-s", {"mnist-sample"}),
        ("compress --at t", {"trained"}),
        ("inspect fac", {"factor.h5"}),
        ("compress --model fac", {"factor.h5"}),
        ("compress --rank ", {""}),
        ("doctor --", {"--help", "--timeout"}),
        ("completion ", {"bash", "zsh"}),
        ("job --nodes 2 -- compress --layout ro", {"rows"}),
        ("job -- compr", {"compress"}),
        ("job --lau", {"--launcher"}),
    ],
)
def test_bash_completes(line, expected, script, run_command):
    words = ["hesscomp", *line.split(" ")]
    done = run_command(["bash", "-c", ASK, "bash", "./bash", *words], cwd=script)
    assert not done.stderr
    assert set(done.stdout.split("\n")[:-1]) == expected


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh")
def test_zsh_reads_its_script(script, run_command):
    done = run_command(["zsh", "-n", "zsh"], cwd=script)
    assert (done.returncode, done.stderr) == (0, "")
