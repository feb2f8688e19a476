"""What a model shall give for a row, made of labels as they came and agreed on by all ranks."""

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import NoReturn

import numpy as np
import scipy.sparse

from hesscomp.datasets.validation import check_finite
from hesscomp.errors import InputError
from hesscomp.parallel.world import World

log = logging.getLogger(__name__)

SIGNS, CLASSES, VALUES, INPUT = TARGETS = ("signs", "classes", "values", "input")

PAIRS = ((-1.0, 1.0), (0.0, 1.0), (1.0, 2.0))  # numbers that mean -1 and +1
MAX_CLASSES = 1000


def check_targets(kind: str, name: str) -> None:
    """Raise InputError for unknown targets."""
    if kind not in TARGETS:
        raise InputError(f"{name}: unknown targets {kind}; use one of {', '.join(TARGETS)}")


def check_label_type(labels: np.ndarray, name: str) -> None:
    """Raise InputError unless the labels are real numbers or texts."""
    texts = labels.dtype.kind == "O" and all(isinstance(label, str) for label in labels.flat)
    if labels.dtype.kind not in "fiubUS" and not texts:
        raise InputError(f"{name}: the labels have type {labels.dtype}; give numbers or texts")


def is_one_hot(y: np.ndarray) -> bool:
    """Return whether all rows are a single 1 among zeros along the last axis."""
    return bool(((y == 0) | (y == 1)).all() and (y.sum(-1) == 1).all())


def with_targets(
    shard, kind: str, world: World, name: str, known: tuple | None = None,
    where: Callable[[int], str] | None = None,
):  # fmt: skip
    """Return the shard with its labels made targets, and the classes they are of. Collective.

    The shard's y holds (rows,) labels as they came, numbers or texts; `from_arrays` says what
    becomes of them. A set of one class alone is taken as signs with a warning; so are integers as
    classes that do not count from 0. `known` are the classes of the training set, which labels must
    not leave; `where` says what to call a row (from 0) in messages.
    """
    if kind == INPUT:
        with world.phase(f"checking {name}"):
            if scipy.sparse.issparse(shard.X):
                raise InputError(f"{name}: rows that are their own targets must be dense")
        return replace(shard, y=shard.X), ()
    if kind == VALUES:
        with world.phase(f"checking {name}"):
            values = _real(shard, name, where)
        return replace(shard, y=values), ()
    distinct, first, place, number = np.unique(
        shard.y, return_index=True, return_inverse=True, return_counts=True
    )
    labels = [number_or_text(label) for label in distinct[: MAX_CLASSES + 1].tolist()]
    rows = (first + shard.start).tolist()
    told = world.gather(list(zip(rows, labels, number.tolist(), strict=False)))
    found = _Found(told, name, where)
    if known is not None:
        found.keep_inside(known)
    classes = known or (found.pair() if kind == SIGNS else found.classes())
    found.keep_few()
    if kind == CLASSES and known is None and world.rank == 0:
        found.say_numbers(classes)
    if kind == SIGNS and known is None and len(found.rows) == 1 and world.rank == 0:
        log.warning("%s: all rows have the label %s", name, *class_names(found.rows))
    codes = np.array((-1.0, 1.0)) if kind == SIGNS else np.arange(len(classes), dtype=np.int64)
    meant = np.array([classes.index(label) for label in labels], np.int64)
    return replace(shard, y=codes[meant[place.reshape(-1)]]), classes


def class_names(classes) -> tuple[str, ...]:
    """Return the classes as texts, for readers."""
    return tuple(f"{label:g}" if isinstance(label, float) else label for label in classes)


class _Found:
    """The distinct labels of all ranks: their first rows and how often they occur."""

    def __init__(self, gathered: list, name: str, where: Callable[[int], str] | None):
        self.name, self.where = name, where
        self.rows: dict = {}
        self.counts: dict = {}
        self.most = max(map(len, gathered))
        for row, label, count in sorted(chain(*gathered), key=lambda entry: entry[0]):
            self.rows.setdefault(label, row)
            self.counts[label] = self.counts.get(label, 0) + count

    def refuse(self, label, rule: str) -> NoReturn:
        row = self.rows[label]
        at = f"row {row + 1}" if self.where is None else self.where(row)
        shown = repr(label[:40]) if isinstance(label, str) else f"{label:g}"
        raise InputError(f"{self.name}: {at} has the label {shown}; {rule}")

    def keep_inside(self, known: tuple) -> None:
        """Refuse labels that the training data do not have."""
        names = class_names(known)
        have = " and ".join(names) if len(names) < 3 else f"{names[0]}, {names[1]}, ... {names[-1]}"
        for label in self.rows:
            if label not in known:
                self.refuse(label, f"the training data have {have}")

    def pair(self) -> tuple:
        """Return the labels that mean -1 and +1."""
        rows, numbers = set(self.rows), any(isinstance(label, float) for label in self.rows)
        pairs: tuple[tuple, ...] = PAIRS if numbers else ()
        if not numbers and len(rows) <= 2 and "" not in rows:
            pairs = (tuple(sorted({"", *rows})[-2:]),)
        for pair in pairs:
            if rows <= set(pair):
                return pair
        strangest = min(rows, key=lambda label: (label in (-1, 0, 1, 2), self.counts[label]))
        self.refuse(
            strangest,
            "labels must be +1/-1, 0/1, 1/2 or two texts; name their column, recode them or, with "
            "a network as in `hesscomp train`, take them as classes (`targets` classes)",
        )

    def classes(self) -> tuple:
        """Return the labels of the classes 0, 1 and so on; some may not occur."""
        texts = sum(isinstance(label, str) for label in self.rows)
        for label in self.rows:
            odd = not label.is_integer() if isinstance(label, float) else not label
            if odd or (isinstance(label, str) and texts < len(self.rows)):
                rule = "classes must be all integers or all texts; recode them"
                if not texts:
                    rule += " or, where they are measured, take them as values (`targets` values)"
                self.refuse(label, rule)
        labels = tuple(sorted(self.rows))
        if labels and labels[0] == 0 and labels[-1] < MAX_CLASSES:
            return tuple(map(float, range(int(labels[-1]) + 1)))
        return labels

    def say_numbers(self, classes: tuple) -> None:
        """Warn where integers are not the numbers of their classes."""
        numbers = classes and isinstance(classes[0], float)
        if numbers and classes != tuple(range(len(classes))):
            names = class_names(classes)
            log.warning(
                "%s: the labels do not count from 0, so classes are numbered in sorted order: %s "
                "is class 0, %s is class %d. If a class does not occur here, store numbers from 0",
                self.name, names[0], names[-1], len(names) - 1,
            )  # fmt: skip

    def keep_few(self) -> None:
        """Refuse more labels than can be classes, or than a rank has told of."""
        if max(self.most, len(self.rows)) > MAX_CLASSES:
            raise InputError(
                f"{self.name}: has more than {MAX_CLASSES} distinct labels; are they classes? "
                "Take them as values, or name their column"
            )


def _real(shard, name: str, where: Callable[[int], str] | None) -> np.ndarray:
    labels = shard.y
    if labels.dtype.kind not in "fiub":  # a table with texts keeps its labels as texts too
        numbers = [number_or_text(label) for label in labels.reshape(-1).tolist()]
        for i, label in enumerate(numbers):
            if isinstance(label, str):
                row = shard.start + i // (labels.size // len(labels))
                at = f"row {row + 1}" if where is None else where(row)
                raise InputError(
                    f"{name}: {at} has the label {label[:40]!r}; values must be real numbers: "
                    "name their column, recode them, or take them as classes (`targets` classes) "
                    "with a loss for classes, such as softmax-cross-entropy"
                )
        labels = np.array(numbers, dtype=np.float64).reshape(labels.shape)
    values = np.ascontiguousarray(labels, dtype=np.float64)
    table = values if values.ndim == 2 else values[:, None]
    check_finite(table, shard.start, f"{name} (labels)")
    return values


def number_or_text(value) -> float | str:
    """Return a label as a number, where it is one, or as a text without space around it."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        value = value.strip()
    try:
        return float(value)
    except ValueError:
        return value
