"""What `--help` shows, and what is said of a command or an option that there is not."""

import runpy
import shlex
import sys
from pathlib import Path

import pytest

import hesscomp
from hesscomp.cli import main as main_module
from hesscomp.cli.arguments import request_from
from hesscomp.cli.commands import COMMANDS, EXAMPLES
from hesscomp.cli.main import main, parse, request_of, whole_parser
from hesscomp.options import described, schema

LINES = [
    (name, line)
    for name, examples in [*((name, about.examples) for name, about in COMMANDS.items()),
                           (None, EXAMPLES)]
    for example in examples.values()
    for line in example.splitlines()
]  # fmt: skip


def said(words: list[str], capsys) -> tuple[int, str, str]:
    """The exit status of a command, its output and its errors."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    return (ended.value.code, *capsys.readouterr())


@pytest.mark.parametrize(("name", "line"), LINES, ids=[line for _, line in LINES])
def test_examples_are_accepted_by_their_parsers(name, line):
    words = shlex.split(line.partition(" > ")[0])
    if words[0] == "mpiexec":
        words = words[3:]
    assert words[0] == "hesscomp" and words[1] == (name or words[1])
    options = parse(words[1:])
    request_from(options, request_of(words[1]))
    if words[1] == "job":
        request_from(parse(options.words), request_of(options.words[0]))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_the_basic_options_and_help_all_every_one(command, capsys):
    parser = whole_parser()[1][command]
    (status, basic, _), (_, every, _) = (
        said([command, word], capsys) for word in ("--help", "--help-all")
    )
    hidden = [each.flag for each in described(request_of(command)) if each.advanced]
    shown = [each.flag for each in described(request_of(command)) if not each.advanced]
    assert status == 0
    assert all(f"\n  {flag}" in every for flag in [*hidden, *shown] if flag.startswith("-"))
    assert all(f"\n  {flag}" in basic for flag in shown if flag.startswith("-"))
    assert not any(f"\n  {flag} " in basic for flag in hidden)
    assert len(parser.advanced) >= len(hidden)
    more = f"'hesscomp {command} --help-all' shows {len(parser.advanced)} more options."
    assert (more in basic) == bool(parser.advanced) and more not in every
    for text in (basic, every):
        assert text.count("\nexamples:\n") == 1
        assert text.count("hesscomp " + command) > len(COMMANDS[command].examples)


def test_advanced_options_stay_in_the_schema():
    assert "max_basis" in schema(request_of("compress"))["properties"]


@pytest.mark.parametrize("words", [[], ["--help"], ["--help-all"]])
def test_overview_has_a_line_for_each_command(words, capsys):
    if words:
        status, text, _ = said(words, capsys)
    else:
        status, text = main(words), capsys.readouterr().out
    assert status == (0 if words else 2)
    lines = text.splitlines()
    assert max(map(len, lines)) < 80
    for name, about in COMMANDS.items():
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert line.endswith(" (MPI)" if about.parallel else about.summary)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("compress --tolerence 1e-2", "compress: error: no option --tolerence; did you mean "
         "--tolerance? ('hesscomp compress --help-all' lists all options)"),
        ("newton --tolerance=1", "newton: error: no option --tolerance; did you mean --tol? "
         "hesscomp compress, update and sensitivity have --tolerance ("),
        ("compress --data d --solver pcg", "no option --solver; hesscomp newton has it ("),
        ("inspect f.h5 --shift -1", "no option --shift; hesscomp spectrum and solve have it ("),
        ("inspect --threads 2", "; hesscomp newton, predict, train and 7 more have it ("),
        ("inspect f.h5 -n 4", "no option -n ('hesscomp inspect --help' lists all options)"),
        ("compress --max_rank 3", "no option --max_rank; did you mean --max-rank? ("),
        ("job --rnks-per-node 3 -- compress", "did you mean --ranks-per-node? ("),
        ("plan --operator ggn", "have it; a command and its options follow after -- ("),
        ("job -- compress --otu f", "hesscomp compress: error: no option --otu; did you "
         "mean --out? ("),
        ("compres --data d", "hesscomp: error: no command compres; did you mean compress? "
         "('hesscomp --help' lists the commands)"),
        ("magic", "hesscomp: error: no command magic ("),
        ("--data adult newton", "have it; options follow the command ("),
    ],
)  # fmt: skip
def test_a_word_that_there_is_not_is_answered_in_one_line(line, message, capsys):
    status, out, error = said(line.split(), capsys)
    assert (status, out) == (2, "") and error.count("\n") == 1
    assert message in error


def test_a_word_that_there_is_not_is_answered_by_one_rank(capsys, monkeypatch):
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("PMI_RANK", rank)
        for words in (["compress", "--otu", "f.h5"], ["compress", "--rank"]):
            status, out, error = said(words, capsys)
            assert (status, out) == (2, "") and error.count("\n") == lines


@pytest.mark.parametrize("line", ["compress --help --bad", "--help magic", "inspect -h --threads"])
def test_help_ignores_what_follows(line, capsys):
    assert said(line.split(), capsys)[0] == 0


def test_a_function_of_python_is_no_command(capsys):
    status, _, errors = said(["trace"], capsys)
    assert status == 2 and "no command trace; it is a function of Python, hesscomp.trace" in errors


def test_without_mpi_one_line_says_what_to_do(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    place = Path(hesscomp.__file__).parent / "parallel" / "mpi.py"
    monkeypatch.setattr(main_module, "parse", lambda words: runpy.run_path(str(place)))
    assert main(["newton"]) == 1
    told = capsys.readouterr().err
    assert "MPI cannot be loaded" in told and "pip install 'mpich>=5'" in told
    assert told.count("\n") == 1
