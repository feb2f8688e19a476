"""Two classes, whatever they are called, agreed on by all ranks."""

import logging
from collections.abc import Callable

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel.world import World

log = logging.getLogger(__name__)

NUMERIC = ((-1.0, 1.0), (0.0, 1.0), (1.0, 2.0))
LISTED = 1000  # distinct labels that one rank reports: past two, it is an error anyway


def check_label_type(labels: np.ndarray, name: str) -> None:
    """Raise InputError unless the labels are real numbers or texts."""
    texts = labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat)
    if labels.dtype.kind not in "fiubUS" and not texts:
        raise InputError(f"{name}: the labels have type {labels.dtype}; give numbers or texts")


def agree_on_classes(
    labels: np.ndarray,
    start: int,
    world: World,
    name: str,
    known: tuple | None = None,
    where: Callable[[int], str] | None = None,
) -> tuple:
    """The two labels that mean -1 and +1, the same on all ranks. Collective.

    +1/-1, 0/1, 1/2, or two texts in sorted order. A set with one class alone is accepted with a
    warning.

    Parameters
    ----------
    labels : (rows,) array of numbers or texts
    start : int
        Rows on earlier ranks.
    known : (negative, positive), optional
        The classes of the training set, which labels must not leave.
    where : callable, optional
        What to call a row (from 0) in messages.
    """
    values, first, number = np.unique(labels, return_index=True, return_counts=True)
    local = zip(values[:LISTED].tolist(), first.tolist(), number.tolist(), strict=False)
    found = [(start + row, _number_or_text(label), count) for label, row, count in local]
    rows: dict = {}
    counts: dict = {}
    for row, label, count in sorted(
        (entry for part in world.gather(found) for entry in part), key=lambda entry: entry[0]
    ):
        rows.setdefault(label, row)
        counts[label] = counts.get(label, 0) + count

    def refuse(label, rule: str):
        at = f"row {rows[label] + 1}" if where is None else where(rows[label])
        shown = repr(label[:40]) if isinstance(label, str) else f"{label:g}"
        raise InputError(f"{name}: {at} has the label {shown}; {rule}")

    if known is not None:
        for label in rows:
            if label not in known:
                refuse(label, "the training data have {} and {}".format(*class_names(known)))
        return known
    numbers = {label for label in rows if isinstance(label, float)}
    pairs = NUMERIC if numbers else ()
    if not numbers and len(rows) <= 2 and "" not in rows:
        pairs = (tuple(sorted({"", *rows})[-2:]),)
    for pair in pairs:
        if set(rows) <= set(pair):
            if len(rows) == 1 and world.rank == 0:
                log.warning("%s: all rows have the label %s", name, *class_names(rows))
            return pair
    strangest = min(rows, key=lambda label: (label in (-1, 0, 1, 2), counts[label]))
    refuse(strangest, "labels must be +1/-1, 0/1, 1/2 or two texts; name their column or recode")


def class_names(classes) -> tuple[str, ...]:
    """The classes as texts, for people."""
    return tuple(f"{label:g}" if isinstance(label, float) else label for label in classes)


def signs(labels: np.ndarray, classes: tuple) -> np.ndarray:
    """-1.0 and +1.0 for the labels of the two classes."""
    positive = classes[1]
    if labels.dtype.kind in "fiub":
        return np.where(labels == positive, 1.0, -1.0)
    return np.array(
        [1.0 if _number_or_text(label) == positive else -1.0 for label in labels.tolist()],
        dtype=np.float64,
    )


def _number_or_text(value) -> float | str:
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = value.strip()
    try:
        return float(value)
    except ValueError:
        return value
