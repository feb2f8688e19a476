"""Two classes, whatever they are called, agreed on by all ranks."""

import logging

import numpy as np

from hesscomp.errors import InputError
from hesscomp.parallel.world import World

log = logging.getLogger(__name__)

NUMERIC = ((-1.0, 1.0), (0.0, 1.0), (1.0, 2.0))
LISTED = 1000  # distinct labels that one rank reports: past two, it is an error anyway


def agree_on_classes(
    labels, start: int, world: World, name: str, known: tuple | None = None
) -> tuple:
    """The two labels that mean -1 and +1, the same on all ranks. Collective.

    +1/-1, 0/1, 1/2, or two texts in sorted order. A set with one class alone is accepted with a
    warning.

    Parameters
    ----------
    labels : (rows,) array of numbers or texts
    start : int
        Rows on earlier ranks, for messages.
    known : (negative, positive), optional
        The classes of the training set, which labels must not leave.
    """
    counts: dict = {}
    values, first, number = np.unique(np.asarray(labels), return_index=True, return_counts=True)
    for value, index, count in list(zip(values.tolist(), first, number, strict=True))[:LISTED]:
        counts[_number_or_text(value)] = (start + int(index) + 1, int(count))
    total: dict = {}
    for part in world.gather(counts):
        for label, (row, count) in part.items():
            seen = total.get(label, (row, 0))
            total[label] = (min(row, seen[0]), seen[1] + count)
    if known is not None:
        strange = [label for label in total if label not in known]
        if strange:
            _refuse(name, strange[0], total, f"the training data have {known[0]} and {known[1]}")
        return known
    numbers = {label for label in total if isinstance(label, float)}
    if numbers == set(total):
        for pair in NUMERIC:
            if numbers <= set(pair):
                if len(numbers) == 1:
                    log.warning("%s: all rows have the label %g", name, *numbers)
                return pair
    elif len(total) == 2 and not numbers:
        return tuple(sorted(total))
    rarest = min(total, key=lambda label: (isinstance(label, float), total[label][1]))
    _refuse(name, rarest, total, "labels must be +1/-1, 0/1, 1/2 or two texts")


def signs(labels, classes: tuple) -> np.ndarray:
    """-1.0 and +1.0 for the labels of the two classes."""
    labels = np.asarray(labels)
    positive = classes[1]
    if labels.dtype.kind in "fiub":
        return np.where(labels == positive, 1.0, -1.0)
    return np.array([1.0 if _number_or_text(v) == positive else -1.0 for v in labels.tolist()])


def _number_or_text(value):
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = value.strip()
    try:
        return float(value)
    except ValueError:
        return value


def _refuse(name, label, total, rule):
    shown = label if isinstance(label, str) else f"{label:g}"
    raise InputError(f"{name}: row {total[label][0]} has the label {shown!s}; {rule}")
