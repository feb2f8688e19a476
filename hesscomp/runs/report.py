"""Reports as JSON that any reader takes."""

import json
import math
import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from hesscomp.errors import InputError, reason
from hesscomp.storage.files import atomic_path

PICTURE_FILE = "solution.json"  # in a run's folder: what a picture of its solution shows


def write_json(path: str | os.PathLike, report: dict) -> None:
    """Write a report whole or not at all; NaN and infinity, which JSON lacks, become null."""
    with atomic_path(path) as temporary:
        text = json.dumps(plain(report), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike, names: Iterable[str], optional: Iterable[str] = ()) -> dict:
    """Read a report whose history has rows, with numbers of these names in each.

    A null of the history becomes NaN, and so does an `optional` number that is not there; what else
    is in the report may be anything.

    Raises
    ------
    InputError
        If the file is missing, or no such report.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            report = json.load(stream)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a JSON report ({reason(error)})") from error
    rows = report.get("history") if isinstance(report, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: is not a hesscomp report: it has no history")
    names, optional = tuple(names), tuple(optional)
    try:
        report["history"] = [
            {name: _number(row[name]) for name in names}
            | {name: _number(row.get(name)) for name in optional}
            for row in rows
        ]
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: its history cannot be read ({reason(error)}); each row needs the numbers "
            f"{', '.join(names)}"
        ) from error
    return report


def read_picture(path: str | os.PathLike, arrays: Iterable[str], words: str) -> dict[str, Any]:
    """Read a picture's numbers and names from a JSON file.

    Parameters
    ----------
    path : path
    arrays : iterable of str
        Of these, what the file has: nested lists of numbers; null is NaN.
    words : str
        A list of words of letters and digits; an empty one if the file has none.

    Raises
    ------
    InputError
        If the file is missing or holds something else there.
    """
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.load(stream)
        names = found.get(words, [])
        if not all(word.isidentifier() for word in names):
            raise ValueError(f"{words} must be words")
        numbers = {name: np.array(found[name], np.float64) for name in arrays if name in found}
        return {**numbers, words: list(names)}
    except (OSError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a JSON picture ({reason(error)})") from error


def _number(value) -> float:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else math.nan


def plain(value):
    """Return what JSON takes of a value: lists for arrays, null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
