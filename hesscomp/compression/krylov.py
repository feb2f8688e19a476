"""Block Krylov with Rayleigh-Ritz: the method for operators of either sign and slow decay."""

import numpy as np

from hesscomp.compression.approximation import FAILURE_BOUND, Approximation
from hesscomp.compression.method import Method
from hesscomp.compression.options import BLOCKS, SketchOptions, block_size
from hesscomp.dense import LA, LM, leading_eigenvectors
from hesscomp.factors.factor import Factor
from hesscomp.operators.operator import Operator
from hesscomp.sketching.orthonormalize import orthonormalize
from hesscomp.sketching.test_matrices import draw, gaussian

ROUNDING = np.finfo(np.float64).eps
VANISHED = 1e-7  # of ||H N||_F: the smallest singular value that a Gram matrix shows


class BlockKrylov(Method):
    """Musco and Musco (2015), algorithm 2, as a block Lanczos process with thick restarts.

    An orthonormal basis Q of span{Omega, H Omega, H^2 Omega, ...}, each new block orthogonalised
    twice against all before it, and the Ritz pairs of T = Q^T H Q by decreasing |w|, or from one
    end: the basis is the same for H + c I, so it finds both ends of the spectrum. The process
    keeps H Q = Q T + N E, with N the next block (not yet multiplied) and E small, so that
    ||H u - w u|| = ||E s|| for the Ritz vector u = Q s, at no product. For any symmetric operator.

    With a rank k it stops as soon as the k leading pairs are converged (`SketchOptions`) and none
    can be missing among them: of an eigenvalue of multiplicity above b only b copies show, and
    those may converge before rounding brings the others. None is missing where the part of the
    probes' images outside the basis bounds all that is left below |w_k| (lemma 4.1 of Halko,
    Martinsson and Tropp 2011; of one end, below w_k in its direction). Else as many new Gaussian
    vectors as probes join every block from then on, and the process stops once they leave the k
    eigenvalues as they are. They also join where as many eigenvalues have become equal as a block
    is wide.

    Where the basis reaches `SketchOptions.max_basis` columns it is restarted (Wu and Simon 2000):
    the leading k + oversample Ritz vectors and N stay, and T = Q^T H Q still holds. Converged ones
    of the k leading pairs are locked: they are not rotated again, and their residual norms, kept as
    they were, become upper bounds.

    With a `start`, a factor F of a nearby operator, the process begins with F Omega.

    Costs b s + probes product columns in s block products (the probes ride in the first), and n
    words for each of them. s is what convergence takes, at most `width` / b rounded down: one more
    where the rank needs it, and more (up to n columns in all) where it meets such a cluster and has
    no `max_columns`. Where `max_columns` ends it before that, copies may be missing among pairs
    that look converged: the error estimates show it, since the probes see what is missing.

    Memory: (n, m + l + 4 b) for a basis of m columns and l = rank + oversample vectors given back
    (all m where a tolerance was asked).
    """

    name = "krylov"
    takes_ends = True

    def __init__(self, operator: Operator, options: SketchOptions, start: Factor | None = None):
        super().__init__(operator, options)
        self.start = start
        n, rows = operator.n, operator.layout.rows
        if options.rank is None:  # grown to a tolerance: every column counts, so no restarts
            self.wanted = self.limit = n
            self.block = min(n, options.block or BLOCKS[0])
        else:
            self.wanted = l = min(n, options.rank + options.oversample)
            self.block = min(n, options.block or block_size(l))
            basis = options.max_basis or (2 + options.power) * l + self.block
            self.limit = min(n, max(basis, l + 2 * self.block))
        self.locked = self.multiplied = self.drawn = 0
        self.basis = np.empty((rows, self.block), order="F")  # its first `size` columns are Q
        self.T = np.empty((0, 0))
        self.next = np.empty((rows, 0))  # N
        self.E = np.empty((self.block, 0))
        self.locked_norms = np.empty(0)  # residual norms of the locked columns, whose E is zero
        self.largest = 0.0  # |w| of all Ritz values so far
        self.found: np.ndarray | None = None  # the leading eigenvalues when they last converged
        self.steps = self.settled = self.newcomers = self.goal = 0

    def width(self, sketch: int) -> int:
        """Return the most columns to multiply: as eigh does, but `sketch` fewer after a start."""
        started = self.start is not None
        most = self.options.max_columns or (2 + self.options.power - started) * sketch
        return max(most, self.options.rank or 1)

    def columns(self, sketch: int) -> int:
        return self.width(sketch) + self.options.probe_count

    @property
    def Q(self) -> np.ndarray:
        return self.basis[:, : self.size]

    def grow(self, columns: int) -> None:
        """Add as many blocks as `columns` allows, at least one; stop where all is converged."""
        self.goal = self.multiplied + columns
        needed = min(self.options.rank or 0, self.operator.n)
        if not self.steps:
            self.next = self._start()
        while True:
            if self.size + self.next.shape[1] > self.limit:
                self._restart()
            self._step()
            finished = self.next.shape[1] == 0 or self._finished()
            spent = self.multiplied + self.next.shape[1] > self.goal and self.size >= needed
            if finished or spent:
                return

    def _step(self) -> None:
        """Multiply the next block, take it into the basis, and make the one after it."""
        N, layout = self.next, self.operator.layout
        self.steps += 1
        Y = self._multiply(np.hstack([N, self._gaussian(self.newcomers)]) if self.newcomers else N)
        self.newcomers = 0
        self.multiplied += Y.shape[1]
        self._append(N)
        C = layout.inner(self.Q, Y)
        old, b = len(self.T), N.shape[1]
        self.T = np.block([[self.T, C[:old, :b]], [C[:old, :b].T, C[old:, :b]]])
        reach = layout.norm(Y) or 1.0
        Y = Y - layout.combine(self.Q, C)
        self.next = self._next_block(Y, reach)
        new = layout.inner(self.next, Y[:, :b])
        self.E = np.hstack([np.zeros((len(new), old), like=new), new])

    def _next_block(self, Y: np.ndarray, reach: float) -> np.ndarray:
        """Orthonormal basis of Y beside Q; directions in which Y vanished continue at random."""
        layout, n = self.operator.layout, self.operator.n
        room = n - self.size
        if room == 0:  # the basis is the whole space
            return Y[:, :0]
        if room < Y.shape[1]:
            gram = layout.inner(Y, Y)
            Y = layout.combine(Y, layout.on_root(leading_eigenvectors, gram, room))
        if not layout.decide(_smallest_singular_value(layout.inner(Y, Y)) >= VANISHED * reach):
            Y = Y + self._gaussian(Y.shape[1]) * (ROUNDING * reach / np.sqrt(n))
        return orthonormalize(Y, layout, against=self.Q, projected=True)

    def _start(self) -> np.ndarray:
        layout, options = self.operator.layout, self.options
        self.drawn = self.block
        Omega = draw(options.test_matrix, layout, 0, self.block, options.seed)
        if self.start is not None:  # what a product with the nearby operator would give
            F = self.start.in_layout(layout)
            Omega = F @ Omega + ROUNDING * max(F.norm(), 1.0) * Omega
        return orthonormalize(Omega, layout)

    def _gaussian(self, columns: int) -> np.ndarray:
        """Columns of the test matrix that were not drawn before."""
        first, self.drawn = self.drawn, self.drawn + columns
        return gaussian(self.operator.layout, first, self.drawn, self.options.seed)

    def _append(self, N: np.ndarray) -> None:
        size = self.size + N.shape[1]
        if size > self.basis.shape[1]:  # untouched columns take no memory
            room = self.limit if self.options.rank is not None else 2 * size
            larger = np.empty((len(N), min(max(size, room), self.operator.n)), order="F")
            larger[:, : self.size] = self.Q
            self.basis = larger
        self.basis[:, self.size : size] = N
        self.size = size

    def _ritz(
        self, first: int = 0, rank: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues, coordinates and residual norms from T without its `first` columns.

        The leading come first, after `rank` of them those of largest |w|.
        """
        w, S = self.operator.layout.eigenpairs(self.T[first:, first:], self.options.which, rank)
        self.largest = max(self.largest, float(np.abs(w).max(initial=0.0)))
        norms = np.linalg.norm(self.E[:, first:] @ S, axis=0)
        if first < self.locked:
            norms = norms + self.locked_norms @ np.abs(S[: self.locked])
        rounding = np.finfo(self.operator.dtype).eps * self.largest
        return w, S, np.maximum(norms, rounding)

    @property
    def allowed(self) -> float:
        """The residual norm of a converged pair."""
        return self.options.accuracy * self.largest

    def _finished(self) -> bool:
        """Return whether a rank was asked for and its pairs are converged, with none missing.

        Lets new vectors in where that is open, or where there may be more of equal eigenvalues.
        """
        rank, n, world = self.options.rank, self.operator.n, self.operator.world
        if rank is None:
            return False
        w, _, norms = self._ritz()
        allowed = self.allowed
        leading, unfinished = w[:rank], not np.all(norms[:rank] <= allowed)
        if self.size >= min(rank, n) and not world.decide(unfinished):
            return self._nothing_is_missing(leading, allowed)
        width, found = self.next.shape[1], np.sort(leading[np.abs(leading) > allowed])
        equal = found[width - 1 :] - found[: max(len(found) - width + 1, 0)] <= allowed
        if self.steps >= self.settled and not world.decide(not np.any(equal)):
            joined = width + self.options.probe_count
            if self.options.max_columns is None:  # as many steps again, for no more than H itself
                self.goal = max(self.goal, min(self.multiplied + self.steps * joined, n))
            self._let_in()
        return False

    def _nothing_is_missing(self, leading: np.ndarray, allowed: float) -> bool:
        assert self.probes is not None  # they came in the first step
        layout, images = self.operator.layout, self.probes.images
        outside = images - layout.combine(self.Q, layout.inner(self.Q, images))
        left = FAILURE_BOUND * np.sqrt(layout.squares(outside).max())
        last = leading[-1]
        if self.options.which == LM:
            bounded = left <= max(abs(last), allowed)
        else:  # what is outside lies between -left and left
            bounded = left <= (last if self.options.which == LA else -last) + allowed
        if layout.decide(bounded):
            return True
        if self.found is None or layout.decide(np.abs(leading - self.found).max() > allowed):
            self.found = leading
            self._let_in()
        return self.steps >= self.settled

    def _let_in(self) -> None:
        """Let the next step take in new Gaussian vectors, as many as there are probes."""
        width = self.next.shape[1]
        room = min(self.operator.n - self.size, self.goal - self.multiplied) - width
        self.newcomers = max(min(self.options.probe_count, room), 0)
        self.settled = self.steps + 2  # when they will have been multiplied twice
        room = self.wanted + 2 * (width + self.newcomers)
        self.limit = min(self.operator.n, max(self.limit, room))

    def _restart(self) -> None:
        """Keep the leading Ritz vectors and the next block (Wu and Simon 2000)."""
        first = self.locked
        kept = max(self.wanted, first + self.next.shape[1])  # room for what locked pairs had hidden
        w, S, norms = (part[..., : kept - first] for part in self._ritz(first))
        # So that the locked residuals together stay below what counts as converged.
        allowed = self.allowed / (2 * np.sqrt(self.wanted))
        done = (norms <= allowed) & (np.arange(len(w)) < (self.options.rank or 0) - first)
        done = self.operator.world.broadcast(done)
        order, new = np.argsort(~done, kind="stable"), int(done.sum())
        w, S, norms = w[order], S[:, order], norms[order]
        self.basis[:, first:kept] = self.operator.layout.combine(self.Q[:, first:], S)
        side = self.T[:first, first:] @ S
        self.T = np.block([[self.T[:first, :first], side], [side.T, np.diag(w)]])
        self.E = np.hstack([self.E[:, :first], self.E[:, first:] @ S])
        self.size, self.locked = kept, first + new
        self.E[:, : self.locked] = 0.0
        self.locked_norms = np.concatenate([self.locked_norms, norms[:new]])

    def approximation(self) -> Approximation:
        # Beyond the rank those of largest |w| tell most of what is left out, at both ends.
        w, S, norms = self._ritz(rank=self.options.rank)
        layout = self.operator.layout
        kept = min(self.size, self.wanted)  # any Ritz vectors are a Galerkin space of their own
        return Approximation(
            w[:kept],
            layout.combine(self.Q, S[:, :kept]),
            layout,
            galerkin=True,
            residual_norms=norms[:kept],
            residual_allowed=self.allowed,
        )


def _smallest_singular_value(gram: np.ndarray) -> float:
    """Of Y, from Y^T Y."""
    smallest = np.linalg.eigvalsh(gram)[0] if np.isfinite(gram).all() else 0.0
    return float(np.sqrt(max(smallest, 0.0)))
