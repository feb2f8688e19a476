"""LIBSVM or SVMlight text: ``label index:value ...``, sparse."""

import re
import warnings
from itertools import chain
from typing import NoReturn

import numpy as np
import scipy.sparse

from hesscomp.datasets.text import TextSource, shown
from hesscomp.errors import InputError
from hesscomp.parallel.resources import available_bytes

MAX_INDEX = 2**31 - 1
VECTORS = 4  # of a number for each column: what any work with the data takes at least
ROW = re.compile(rb"[^\s:]+(?:\s+\d+:[^\s:]+)*")
ENTRY = re.compile(rb"\d+:[^\s:]+")
QUERY = re.compile(rb"\sqid:\S*")
FORM = "write label index:value ..."


class LibsvmSource(TextSource):
    """Indices count from 1, or from 0 where an index 0 occurs; the largest is the last column.

    Unsorted indices are sorted. What follows a # and ``qid:`` is passed over.
    """

    def parse(self, lines: list[bytes], row: int):
        text = b"\n".join(lines)
        if b"#" in text:
            lines = [line.split(b"#", 1)[0].rstrip() for line in lines]
            text = b"\n".join(lines)
        if b"qid:" in text:
            lines = [QUERY.sub(b"", line) for line in lines]
            text = b"\n".join(lines)
        for i, line in enumerate(lines):
            if not ROW.fullmatch(line):
                self.refuse(row + i, f" has {_first_bad_token(line)}; {FORM}")
        lengths = np.array([line.count(b":") for line in lines], dtype=np.int64)
        numbers = _numbers(text.replace(b":", b" "))
        if numbers is None or len(numbers) != len(lines) + 2 * lengths.sum():
            self._refuse_number(lines, row)
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        labels_at = 2 * indptr[:-1] + np.arange(len(lines))
        rest = np.delete(numbers, labels_at)
        indices, values = rest[0::2], rest[1::2]
        self._check(indptr, indices > MAX_INDEX, indices, row, "indices must be below 2^31")
        bad = ~np.isfinite(values)
        self._check(indptr, bad, indices, row, "its value is not finite: fill it in or remove it")
        entries = self._sorted(indptr, indices.astype(np.int64), values, row)
        return numbers[labels_at], lengths, *entries

    def _check(self, indptr, bad, indices, row: int, remedy: str) -> None:
        """Refuse the first entry that is bad."""
        if bad.any():
            at = int(np.argmax(bad))
            line = int(np.searchsorted(indptr, at, side="right")) - 1
            self.refuse(row + line, f" has the index {indices[at]:.0f}; {remedy}")

    def _sorted(self, indptr, indices, values, row: int):
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        same = rows[1:] == rows[:-1]
        if np.any(same & (indices[1:] <= indices[:-1])):
            order = np.lexsort((indices, rows))
            indices, values = indices[order], values[order]
            twice = np.append(same & (indices[1:] == indices[:-1]), False)
            self._check(indptr, twice, indices, row, "give each index of a row once")
        return indices, values

    def join(self, parts: list):
        kinds = (np.float64, np.int64, np.int64, np.float64)
        columns = zip(kinds, *parts, strict=True)
        labels, lengths, indices, values = (
            np.concatenate([np.empty(0, kind), *pieces]) for kind, *pieces in columns
        )
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        width = int(indices.max(initial=-1)) + 1
        return scipy.sparse.csr_array((values, indices, indptr), shape=(len(labels), width)), labels

    def agree(self, X, start, world, train):
        gather = world.gather
        if train is None:
            found = gather((int(X.indices.min(initial=1)), int(X.indices.max(initial=0))))
            known, self.base = self.reading, min(low for low, _ in found)
            if known.index_base is not None:
                self.base = known.index_base
            self.width = max(high for _, high in found) + 1 - self.base
            if known.width is not None:
                self.width = known.width
                self._keep_inside(X, start, gather)
            if any(gather(VECTORS * 8 * self.width > available_bytes())):
                raise InputError(
                    f"{self.path}: has the index {self.width + self.base - 1}, and vectors of so "
                    "many numbers do not fit into memory here; renumber the columns"
                )
        else:
            self.base, self.width = train.base, train.width
            self._keep_inside(X, start, gather)
        index_type = np.int32 if max(self.width, X.nnz) <= MAX_INDEX else np.int64
        indices, indptr = (X.indices - self.base).astype(index_type), X.indptr.astype(index_type)
        shape = (X.shape[0], self.width)
        return scipy.sparse.csr_array((X.data, indices, indptr), shape=shape), self.width

    def _keep_inside(self, X, start: int, gather) -> None:
        """Refuse, on all ranks, indices that the training data do not have."""
        last = self.width + self.base - 1
        outside = np.flatnonzero((X.indices < self.base) | (X.indices > last))[:1]
        rows = start + np.searchsorted(X.indptr, outside, side="right") - 1
        first = list(zip(rows.tolist(), X.indices[outside].tolist(), strict=True))
        if found := list(chain(*gather(first))):
            row, index = min(found)
            have = f"the training data have {self.base} to {last}; encode both files alike"
            self.refuse(row, f" has the index {index}; {have}")

    def _refuse_number(self, lines: list[bytes], row: int) -> NoReturn:
        for i, line in enumerate(lines):
            for token in line.replace(b":", b" ").split():
                if _numbers(token) is None:
                    self.refuse(row + i, f" has {shown(token)}, which is not a number; {FORM}")
        raise InputError(
            f"{self.path}: rows {row + 1} to {row + len(lines)} cannot be read; {FORM}"
        )


def _numbers(text: bytes) -> np.ndarray | None:
    """Return all numbers of a text separated by white space; None if there is anything else."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            return np.fromstring(text, sep=" ")
        except (DeprecationWarning, ValueError):
            return None


def _first_bad_token(line: bytes) -> str:
    label, *tokens = line.split() or [b""]
    if b":" in label:
        return f"no label before {shown(label)}"
    bad = [token for token in tokens if not ENTRY.fullmatch(token)]
    return shown(bad[0] if bad else line)
