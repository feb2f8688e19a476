"""Marks of cases."""

from collections.abc import Iterable

import pytest


def slow_but(quick: Iterable, cases: Iterable) -> list:
    """The cases of a test: those of `quick` in every run, the others in the slow one."""
    quick = set(quick)
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]
