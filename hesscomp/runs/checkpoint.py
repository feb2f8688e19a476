"""Checkpoints of a run: one HDF5 file, whole or absent, the one before it kept."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

import hesscomp
from hesscomp.errors import InputError
from hesscomp.runs.files import atomic_path
from hesscomp.runs.hdf5 import CheckedFile
from hesscomp.runs.history import History

FORMAT, VERSION = "hesscomp-checkpoint", 1
NAME, PREVIOUS = "checkpoint.h5", "checkpoint-previous.h5"


@dataclass
class Checkpoint:
    """All that a run needs to go on as if it had not stopped. Nothing depends on the ranks.

    Attributes
    ----------
    step : int
        Steps taken.
    arrays : dict of str to array
        The point and the best one.
    state : dict of str to array or number
        The optimizer's.
    values : dict of str to number
        What the optimizer told of the last step.
    facts : dict of str to number or str
        Counters, and what the run is of: a run goes on only where the texts are equal.
    history : History
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, np.ndarray | float | int]
    values: dict[str, float]
    facts: dict[str, float | int | str]
    history: History = field(default_factory=History)


def save_checkpoint(checkpoint: Checkpoint, folder: str | os.PathLike) -> None:
    """Write `checkpoint.h5` in `folder`; the file of that name becomes `checkpoint-previous.h5`."""
    path = Path(folder) / NAME
    if path.exists():
        os.replace(path, path.with_name(PREVIOUS))
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["format_version"] = VERSION
        file.attrs["hesscomp_version"] = hesscomp.__version__
        file.attrs["step"] = checkpoint.step
        file.create_group("facts").attrs.update(checkpoint.facts)
        parts = {
            "arrays": checkpoint.arrays,
            "state": checkpoint.state,
            "values": checkpoint.values,
            "history": checkpoint.history.columns(),
        }
        for name, values in parts.items():
            group = file.create_group(name, track_order=True)
            for key, value in values.items():
                group[key] = value
        file["history"].attrs["events"] = json.dumps(checkpoint.history.events)


def load_checkpoint(folder: str | os.PathLike) -> Checkpoint | None:
    """The last whole checkpoint in `folder`, or None where there is none.

    Raises
    ------
    InputError
        If there is one and it, or the one before it, cannot be read.
    """
    for name in (NAME, PREVIOUS):
        path = Path(folder) / name
        if path.exists():
            with CheckedFile(path, "checkpoint") as file:
                return _read(file)
    return None


def _read(file: CheckedFile) -> Checkpoint:
    attributes = file.file.attrs
    if attributes.get("format") != FORMAT or attributes.get("format_version") != VERSION:
        file.refuse(f"it is no {FORMAT} of version {VERSION}")
    groups = ("arrays", "state", "values", "history")
    arrays, state, values, columns = (_values(file, name) for name in groups)
    facts = {key: _plain(value) for key, value in file.group("facts").attrs.items()}
    try:
        step = int(attributes["step"])
        history = History.of_columns(columns, json.loads(file.group("history").attrs["events"]))
    except (KeyError, TypeError, ValueError) as error:
        file.refuse(f"step or history do not fit ({error})")
    return Checkpoint(step, arrays, state, values, facts, history)


def _values(file: CheckedFile, group: str) -> dict[str, np.ndarray | float | int]:
    names = list(file.group(group))  # in the order in which they were written
    return {name: _plain(file.dataset(f"{group}/{name}", "fiub")[()]) for name in names}


def _plain(value):
    """A number or a text as Python has it; arrays as they are."""
    return value.item() if isinstance(value, np.generic) else value


def check_same_run(found: dict, facts: dict, folder: str | os.PathLike) -> None:
    """InputError unless the texts among the facts are those found in the folder."""
    for name, value in facts.items():
        if isinstance(value, str) and found.get(name) != value:
            raise InputError(
                f"{folder}: its run was made with {name} {found.get(name)}, not "
                f"{value}; name another folder, or remove it"
            )
