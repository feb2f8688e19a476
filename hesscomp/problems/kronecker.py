"""K-FAC and E-KFAC of a network: sums over the rows of all ranks, and small eigenproblems."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from hesscomp.curvature.losses import Loss
from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError
from hesscomp.factors import UNKNOWN, Kronecker, Provenance
from hesscomp.parallel.layout import Replicated
from hesscomp.problems.problem import KroneckerMatrices, chunks

if TYPE_CHECKING:
    from hesscomp.problems.network import NetworkProblem

GRADIENT_NUMBERS = 2**23  # of gradients of single rows that are held at once


def kronecker_factor(
    problem: NetworkProblem, x: np.ndarray, loss: Loss, targets, corrected: bool, **about
) -> Kronecker:
    """Return the Kronecker factor of J^T B J at x, with B the curvature of `loss`. Collective.

    `targets` replaces the shard's; `about` are fields of its provenance.
    """
    made = _Sums(problem, x, loss, targets)
    with problem.world.ledger.timed("eigenproblems"):
        pairs = [problem.world.on_root(_eigenpairs, matrix) for matrix in made.factors()]
    values, bases = [pair[0] for pair in pairs], [pair[1:] for pair in pairs]
    if corrected:
        spectra = made.squares_in(list(zip(bases[::2], bases[1::2], strict=True)))
    else:
        spectra = [np.outer(v, w) for v, w in zip(values[::2], values[1::2], strict=True)]
    return Kronecker.of_layers(
        zip(made.first, bases[::2], bases[1::2], spectra, strict=True),
        made.diagonal(),
        certificate=UNKNOWN,
        provenance=Provenance(
            operator="E-KFAC" if corrected else "K-FAC",
            dtype=problem.dtype,
            ranks=problem.world.size,
            threads=problem.world.threads,
            reproducible=problem.world.reproducible,
            **about,
        ),
        layout=Replicated(problem.n, problem.world),
    )


def kronecker_matrices(
    problem: NetworkProblem, x: np.ndarray, loss: Loss, targets
) -> KroneckerMatrices:
    """Return the matrices A and G of `kronecker_factor` of each layer, and the diagonal."""
    made = _Sums(problem, x, loss, targets)
    factors = made.factors()
    layers = list(zip(made.first, factors[::2], factors[1::2], strict=True))
    return KroneckerMatrices(layers, made.diagonal())


def _eigenpairs(matrix: np.ndarray) -> np.ndarray:
    """Return the eigenvalues, none below 0, and below them the eigenvectors."""
    w, Q = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.vstack([np.maximum(w, 0.0), Q])


class _Sums:
    """The sums of one factor over the rows of all ranks, a pass each."""

    def __init__(self, problem: NetworkProblem, x: np.ndarray, loss: Loss, targets):
        self.problem, self.x, self.loss, self.targets = problem, x, loss, targets
        self.layers, self.dtype = problem.engine.outer_layers, problem.dtype
        if not self.layers:
            raise InputError(
                f"{problem.name} has no Kronecker factors ({problem.derivatives}; they need dense "
                "or convolutional layers that are used once); take another preconditioner or matrix"
            )
        self.first = [problem.parameter_blocks[own[0]].offset for own in self.layers]
        X, y = problem.tensors(self.dtype)
        self.rows = X, y if targets is None else targets
        kernel = problem.compiled("outer_factors", self.dtype, self.rows, extra=(loss,))
        # Shapes of a (rows, places, inputs) and d (rows, places, columns, outputs) of each layer
        self.shapes = tf.nest.flatten(kernel.get_concrete_function().structured_outputs)

    def factors(self) -> list[np.ndarray]:
        """Return A and G of each layer."""
        kernel = self._compiled("kronecker")
        sides = [int(found.shape[-1]) for found in self.shapes]
        return self._summed(kernel, [(side, side) for side in sides], self._at_once())

    def squares_in(self, bases: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
        """Return the mean squares of the gradients in the bases of each layer."""
        cast = [tuple(tf.constant(Q, self.dtype) for Q in pair) for pair in bases]
        compiled = self.problem.compiled(
            "squares_in_bases", self.dtype, (*self.rows, cast), extra=(self.loss,)
        )

        def kernel(theta, X, y):
            return compiled(theta, X, y, cast)

        shapes = [(len(Q), len(R)) for Q, R in bases]
        gradients = max(a * d for a, d in shapes) * self._columns()
        several = any(found.shape[1] != 1 for found in self.shapes)
        few = max(GRADIENT_NUMBERS // gradients, 1) if several else None
        return self._summed(kernel, shapes, self._at_once(few))

    def diagonal(self) -> np.ndarray:
        """Return n numbers: the diagonal at the parameters of no layer, else zero."""
        blocks, inside = self.problem.parameter_blocks, {i for own in self.layers for i in own}
        rest = tuple(i for i, block in enumerate(blocks) if i not in inside and block.size)
        found = np.zeros(self.problem.n)
        if rest:
            kernel = self._compiled("squared_roots", rest)
            spans = [np.arange(blocks[i].offset, blocks[i].offset + blocks[i].size) for i in rest]
            indices = np.concatenate(spans)
            few = max(GRADIENT_NUMBERS // (len(indices) * self._columns()), 1)
            (found[indices],) = self._summed(kernel, [(len(indices),)], self._at_once(few))
        return found

    def _compiled(self, kind: str, *extra):
        return self.problem.compiled(kind, self.dtype, self.rows, extra=(self.loss, *extra))

    def _columns(self) -> int:
        """Return how many gradients a row has."""
        return max((found.shape[2] or 1) for found in self.shapes[1::2])

    def _at_once(self, few: int | None = None):
        """Return a function from rows to chunks that the memory of a product takes, or `few`."""
        numbers = sum(found.shape[1:].num_elements() or 0 for found in self.shapes)
        room = self.problem.memory / 4 / np.dtype(self.dtype).itemsize
        most = min(max(int(room // max(numbers, 1)), 1), few or np.inf)

        def cut(part: slice) -> Iterable[slice]:
            for chunk in self.problem.chunks(part, self.dtype, self._columns()):
                size = min(most, chunk.stop - chunk.start)
                yield from chunks(chunk, chunk.stop, int(size))

        return cut

    def _summed(self, kernel, shapes, cut) -> list[np.ndarray]:
        """Return the means over all rows of what a kernel sums, by one reduction."""
        problem = self.problem
        problem.world.ledger.passes += 1
        addends = [
            np.concatenate([total.ravel() for total in self._here(kernel, shapes, cut(part))])
            for part in problem.parts_here
        ]
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
        total = problem.sum_parts(addends, (int(ends[-1]),)) / problem.rows
        pieces = np.split(total, ends[:-1])
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    def _here(self, kernel, shapes, cut) -> list[np.ndarray]:
        problem = self.problem
        return problem.sums(kernel, self.x, self.dtype, cut, shapes, self.targets)
