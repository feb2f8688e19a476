"""Progress of long work: a bar on a terminal, lines elsewhere, and how much there is to do."""

import io
import re
import sys

import numpy as np
import pytest

from hesscomp.cli import progress
from hesscomp.cli.progress import progress_display
from hesscomp.compression import compress
from hesscomp.estimators import diagonal_factor, spectral_quadrature
from hesscomp.operators.matrix import MatrixOperator
from hesscomp.workflows.progress import Columns, counted

N = 400


class Stream(io.StringIO):
    """Standard error, which may be a terminal."""

    def __init__(self, terminal: bool):
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def standard_error(monkeypatch):
    def replaced(terminal: bool, quiet: float) -> Stream:
        monkeypatch.setattr(progress, "QUIET", quiet)
        monkeypatch.setattr(sys, "stderr", Stream(terminal))
        return sys.stderr

    return replaced


def work(show, total, columns: int = 20) -> None:
    """Two pieces of work, as a workflow tells of them."""
    for _ in range(2):
        for done in range(0, columns, 5):
            show(Columns(done, total))
        show(Columns(columns, total, finished=True))


def test_a_bar_on_a_terminal_ends_its_line(standard_error, monkeypatch):
    stream = standard_error(terminal=True, quiet=0)
    monkeypatch.setattr(progress, "TERMINAL_INTERVAL", 0)
    work(progress_display(), total=32)
    first, second, rest = stream.getvalue().split("\n")
    for line in (first, second):
        *during, last = line.strip("\r").split("\r")
        shown = [text for text in during if "/32" in text]
        for done, text in zip((5, 10, 15), shown, strict=True):
            percent = f"product columns: {100 * done / 32:3.0f}%"
            assert text.startswith(percent)
            assert re.search(rf"{done}/32 \[\d\d:\d\d<\d\d:\d\d, .* columns/s\]", text)
        assert last.startswith("product columns: 20 columns [")  # all that it took
    assert rest == ""


@pytest.mark.parametrize("total", [None, 10])
def test_a_bar_without_a_total_or_beyond_it(standard_error, total):
    stream = standard_error(terminal=True, quiet=0)
    work(progress_display(), total)
    assert stream.getvalue().count("\n") == 2 and "20 columns" in stream.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_short_work_shows_nothing(standard_error, terminal):
    stream = standard_error(terminal, quiet=1e6)
    work(progress_display(), total=20)
    assert stream.getvalue() == ""


def test_lines_without_a_terminal(standard_error, monkeypatch):
    stream = standard_error(terminal=False, quiet=0)
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0)
    work(progress_display(), total=10)
    told = ("0 of 10", "5 of 10", "10 of 10", "15")  # the total is a bound that may be passed
    lines = [f"{done} product columns, 0 s\n" for done in told]
    assert stream.getvalue() == "".join(2 * lines)


@pytest.fixture(scope="module")
def matrix():
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((N, N)))[0]
    return Q * 0.9 ** np.arange(N) @ Q.T


def events(operator, run) -> list[Columns]:
    told = []
    with counted(operator.world, told.append):
        run(operator)
    assert told[0].total is None and told[-1].finished and len(told) > 2
    assert not any(each.finished for each in told[:-1])
    return told


EXACT = {
    "nystrom": lambda H: compress(H, rank=10, method="nystrom"),
    "nystrom, no power": lambda H: compress(H, rank=10, method="nystrom", power=0),
    "eigh": lambda H: compress(H, rank=10, method="eigh", power=2),
    "one-pass": lambda H: compress(H, rank=10, method="one-pass"),
    "dense": lambda H: compress(H, rank=N),
    "spectrum": lambda H: spectral_quadrature(H, probes=2, steps=20),
    "diagonal": lambda H: diagonal_factor(H, columns=20),
    "exact diagonal": lambda H: diagonal_factor(H, columns=N),
}


@pytest.mark.parametrize("work", EXACT)
def test_the_columns_that_are_told_before_are_those_that_are_taken(matrix, work):
    *_, last = events(MatrixOperator(matrix, psd=True), EXACT[work])
    assert last.done == last.total


def test_krylov_takes_what_is_told_at_most(matrix):
    _, *during, last = events(
        MatrixOperator(matrix), lambda H: compress(H, rank=10, method="krylov")
    )
    assert {each.total for each in during} == {68}
    assert 0 < last.done <= 68


def test_nobody_knows_what_a_tolerance_takes(matrix):
    told = events(MatrixOperator(matrix), lambda H: compress(H, tolerance=1e-2))
    assert {each.total for each in told} == {None}
