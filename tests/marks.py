"""Marks of cases."""

from collections.abc import Iterable

import pytest
from mpi4py import MPI


def _marked_but(chosen: Iterable, cases: Iterable, mark) -> list:
    chosen = set(chosen)
    return [
        case
        if case in chosen
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=mark)
        for case in cases
    ]


def slow_but(quick: Iterable, cases: Iterable) -> list:
    """The cases of a test: those of `quick` in every run, the others in the slow one."""
    return _marked_but(quick, cases, pytest.mark.slow)


def serial_but(on_ranks: Iterable, cases: Iterable) -> list:
    """The cases of a test: on several ranks those of `on_ranks`, for which the others stand too."""
    return _marked_but(on_ranks, cases, pytest.mark.serial)


def two_ranks_but(on_more: Iterable, cases: Iterable) -> list:
    """The cases of a test: on more than two ranks those of `on_more`; the others add little."""
    return _marked_but(on_more, cases, pytest.mark.ranks(most=2))


def several_but(alone: Iterable, cases: Iterable) -> list:
    """The cases of a test: those of `alone` serially, where all compare a run with itself."""
    return list(cases if MPI.COMM_WORLD.size > 1 else alone)
