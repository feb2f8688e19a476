"""Reports as JSON that any reader takes."""

import json
import math
import os

import numpy as np

from hesscomp.errors import InputError
from hesscomp.runs.files import atomic_path


def write_json(path: str | os.PathLike, report: dict) -> None:
    """Write a report whole or not at all; NaN and infinity, which JSON lacks, become null."""
    with atomic_path(path) as temporary:
        text = json.dumps(_plain(report), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike) -> dict:
    """Read a report; InputError where there is none."""
    try:
        with open(path, encoding="utf-8") as stream:
            report = json.load(stream)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as a JSON report ({error})") from error
    if not isinstance(report, dict) or not isinstance(report.get("history"), list):
        raise InputError(f"{path}: is no hesscomp report: it has no history")
    return report


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
