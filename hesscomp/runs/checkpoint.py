"""Checkpoints of a run: one HDF5 file, whole or absent, the one before it kept."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hesscomp.errors import InputError, reason
from hesscomp.runs.history import History
from hesscomp.storage.files import atomic_path, flush_file, remove_files, remove_leftovers
from hesscomp.storage.hdf5 import CheckedFile, check_header, count, finite, new_file, write_header
from hesscomp.storage.slabs import own_slabs, read_rows, save_slabs, slabs_of

log = logging.getLogger(__name__)

FORMAT, VERSION = "hesscomp-checkpoint", 1
NAME, PREVIOUS = "checkpoint.h5", "checkpoint-previous.h5"
DAMAGED = "checkpoint-damaged.h5"
ROWS = "rows"
LARGE = 1000  # numbers, from which on an array gets a checksum


@dataclass
class Checkpoint:
    """All that a run needs to go on as if it had not stopped, on any number of ranks.

    The facts are counters, and texts that identify the run: it resumes only where they are equal.
    """

    step: int  # steps taken
    arrays: dict[str, np.ndarray]  # the point, the best one, the gradient
    state: dict[str, Any]  # the optimizer's: arrays and numbers
    values: dict[str, float]  # the optimizer's of the last step, for the history
    facts: dict[str, Any]
    history: History = field(default_factory=History)
    rows: np.ndarray | None = None  # (rows_here, k), this rank's part of an array by data rows
    ranges: list[tuple[int, int]] = field(default_factory=list)  # of the rows, for each rank

    def write(self, file: h5py.File) -> None:
        """Write all but the rows."""
        write_header(file, FORMAT, VERSION)
        file.attrs["step"] = self.step
        file.create_group("facts").attrs.update(self.facts)
        parts: dict[str, Mapping] = {
            "arrays": self.arrays,
            "state": self.state,
            "values": self.values,
            "history": self.history.columns(),
        }
        for name, values in parts.items():
            group = file.create_group(name, track_order=True)
            for key, value in values.items():
                group.create_dataset(key, data=value, fletcher32=np.size(value) >= LARGE)
        file["history"].attrs["events"] = json.dumps(self.history.events)

    def mismatch(self, like: "Checkpoint") -> str | None:
        """Return why a run that begins with `like` cannot go on from here; None where it can.

        See `schema_mismatch`. There must be rows where `like` has some, and a history as long as
        the steps make it.
        """
        rows = len(like.history) + self.step - like.step
        if len(self.history) != rows:
            return f"/history has {len(self.history)} rows after {self.step} steps, expected {rows}"
        parts: list[tuple[str, Mapping, Mapping]] = [
            ("/arrays", self.arrays, like.arrays),
            ("/state", self.state, like.state),
            ("/values", self.values, dict.fromkeys(self.values, np.nan)),
            ("/facts", self.facts, like.facts),
            *(("/history", row, first) for first in like.history.rows for row in self.history.rows),
        ]
        if like.rows is not None:
            parts.append(("", {ROWS: self.rows}, {ROWS: like.rows}))
        reasons = (schema_mismatch(found, wanted, place) for place, found, wanted in parts)
        return next(filter(None, reasons), None)


def save_checkpoint(checkpoint: Checkpoint, folder: str | os.PathLike, world) -> None:
    """Write `checkpoint.h5` in `folder`; the file of that name becomes `checkpoint-previous.h5`.

    Collective: rank 0 writes the file, and each rank its `rows` to a slab beside it. The new file
    is on disk before the old ones are touched.
    """
    path, rows = Path(folder) / NAME, checkpoint.rows
    if rows is not None:
        save_slabs(
            path, ROWS, rows, checkpoint.ranges, world, checkpoint.write, replacing=_rotating,
            fletcher32=rows.size > 0,
        )  # fmt: skip
        return
    with world.phase(f"writing {path}"):
        if world.rank == 0:
            with _rotating(path, ROWS) as temporary, new_file(temporary) as file:
                checkpoint.write(file)


@contextmanager
def _rotating(path: Path, name: str) -> Iterator[Path]:
    """Replace a file as `replacing_path` does; the old file is the previous checkpoint."""
    previous, before = path.with_name(PREVIOUS), []
    with atomic_path(path) as temporary:
        yield temporary
        flush_file(temporary)
        if path.exists():
            before = own_slabs(previous, name, made_as=path)
            os.replace(path, previous)
    remove_files(before)


def open_run(
    folder: str | os.PathLike,
    like: Checkpoint,
    world,
    rows: tuple[int, int] = (0, 0),
    upgraded: Callable[[Checkpoint], Checkpoint] | None = None,
) -> Checkpoint | None:
    """Return the checkpoint from which a run in `folder` resumes, or None. Collective.

    Parameters
    ----------
    folder : path
        Made if it is missing.
    like : Checkpoint
        The run as it begins: texts among its facts must be those of the checkpoint, all else must
        have the same form.
    world : World
    rows : (int, int)
        First of this rank's rows and one past the last, in a checkpoint that has `rows`.
    upgraded : callable, optional
        Turns a checkpoint of an earlier version into one of this version.

    Raises
    ------
    InputError
        If the folder is another run's, or no checkpoint in it can be read.

    Notes
    -----
    A damaged last checkpoint is renamed `checkpoint-damaged.h5`, and the one before is taken, with
    a warning.
    """
    folder, names, problems, found = Path(folder), [], [], None
    with world.phase(f"opening {folder}"):
        if world.rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder, NAME)
            names = [name for name in (NAME, PREVIOUS) if (folder / name).exists()]
    for name in world.broadcast(names):
        problem = None
        try:
            found = load_checkpoint(folder / name, rows, like, upgraded)
        except InputError as error:
            problem = str(error)
        problem = next((text for text in world.gather(problem) if text is not None), None)
        if problem is None:
            break
        problems.append(problem)
    else:
        if problems:
            raise InputError(f"{'; '.join(problems)}; remove {folder} to start again")
        return None
    assert found is not None  # the loop found one
    check_same_run(found.facts, like.facts, folder)
    with world.phase(f"clearing {folder}"):
        if world.rank == 0 and problems:
            os.replace(folder / NAME, folder / DAMAGED)
            log.warning(
                "%s; set aside as %s, going on from %s (step %d)",
                *(problems[0], DAMAGED, PREVIOUS, found.step),
            )
        elif world.rank == 0:  # slabs of a run that was killed before it wrote the checkpoint
            named = {slab for name in (NAME, PREVIOUS) for slab in slabs_of(folder / name, ROWS)}
            remove_files([slab for slab in folder.glob(f"{NAME}.*.slab") if slab not in named])
    return found


def load_checkpoint(
    path: str | os.PathLike,
    rows: tuple[int, int] = (0, 0),
    like: Checkpoint | None = None,
    upgraded: Callable[[Checkpoint], Checkpoint] | None = None,
) -> Checkpoint:
    """Read a checkpoint, and of its `rows` those that are named; see `open_run`.

    Raises
    ------
    InputError
        If it is missing, cannot be read, contradicts itself or is, though of the same run, not
        `like` the one that the run begins with.
    """
    with CheckedFile(path, "checkpoint") as file:
        found = _read(file, rows)
        if upgraded is not None:
            found = upgraded(found)
        if like is not None and _difference(found.facts, like.facts) is None:
            why = found.mismatch(like)
            if why is not None:
                file.refuse(why)
        return found


def load_best(path: str | os.PathLike) -> np.ndarray:
    """Read only the best point of a checkpoint, for Newton's method the last; errors as above."""
    with CheckedFile(path, "checkpoint") as file:
        check_header(file, FORMAT, VERSION)
        name = f"arrays/{'best' if 'best' in file.group('arrays') else 'x'}"
        return finite(file, name, file.dataset(name, "f")[()].astype(np.float64, copy=False))


def _read(file: CheckedFile, rows: tuple[int, int]) -> Checkpoint:
    check_header(file, FORMAT, VERSION)
    groups = ("arrays", "state", "values", "history")
    arrays, state, values, columns = (_values(file, name) for name in groups)
    facts = {key: _plain(value) for key, value in file.attributes("facts").items()}
    step = count(file, "step")
    events = json.loads(file.attributes("history")["events"])
    history = History.of_columns(columns, events)
    found = None
    if ROWS in file.file:
        found = read_rows(file, ROWS, getattr(file.object(ROWS), "shape", ()), *rows)
    return Checkpoint(step, arrays, state, values, facts, history, found)


def _values(file: CheckedFile, group: str) -> dict[str, Any]:
    names = list(file.group(group))  # in the order in which they were written
    return {name: _plain(file.dataset(f"{group}/{name}", "fiub", False)[()]) for name in names}


def _plain(value):
    """Return a number or a text as Python has it; arrays as they are."""
    return value.item() if isinstance(value, np.generic) else value


def check_same_run(found: dict, facts: dict, folder: str | os.PathLike) -> None:
    """InputError unless the texts among the facts are those found in the folder."""
    name = _difference(found, facts)
    if name is not None:
        made = f"with {name} {reason(found.get(name))}, not {facts[name]}"
        if name == "point":
            made = "from another start: a model that was trained since then has other weights"
        if name not in found:
            made = f"without {name}, and this one has some"
        raise InputError(f"{folder}: its run was made {made}; name another folder, or remove it")


def _difference(found: dict, facts: dict) -> str | None:
    """Return the first text among the facts that is not the one that was found."""
    for name, value in facts.items():
        other = found.get(name)
        if isinstance(value, str) and not (isinstance(other, str) and other == value):
            return name
    return None


def schema_mismatch(found: Mapping, expected: Mapping, place: str) -> str | None:
    """Return why what was `found` at a place cannot stand in for `expected`; None where it can.

    Each expected name must be found. An array must have the same type and shape, and finite
    entries. A number must be a number, finite where the expected one is. A length of 0 stands for
    one that is not known beforehand; where a matrix has one, it is the same wherever it occurs.
    Texts are not compared.
    """
    unknown, tied = set(), False
    for name, like in expected.items():
        where, value = f"{place}/{name}", found.get(name)
        if value is None:
            return f"{where} is missing"
        if isinstance(like, np.ndarray):
            shape, kind = np.shape(value), getattr(value, "dtype", None)
            fits = len(shape) == like.ndim and all(
                want in (0, have) for have, want in zip(shape, like.shape, strict=True)
            )
            if kind != like.dtype or not fits:
                wanted = ", ".join(str(want or "any") for want in like.shape)
                return (
                    f"{where} has shape {shape} and type {kind}, expected ({wanted}) {like.dtype}"
                )
            tied = tied or (like.ndim > 1 and 0 in like.shape)
            unknown |= {have for have, want in zip(shape, like.shape, strict=True) if want == 0}
            if not np.isfinite(value).all():
                return f"{where} holds numbers that are not finite"
        elif not isinstance(like, str):
            if not isinstance(value, int | float):
                return f"{where} is not a number"
            if np.isfinite(like) and not np.isfinite(value):
                return f"{where} is {value}, not finite"
    if tied and len(unknown) > 1:
        return f"{place} holds arrays of lengths {sorted(unknown)} where they must be the same"
    return None
