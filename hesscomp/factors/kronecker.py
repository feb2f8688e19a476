"""The Kronecker factor: for each layer (Q x R) diag(s) (Q x R)^T, and a diagonal elsewhere."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from hesscomp.errors import InputError
from hesscomp.factors.certificate import UNKNOWN
from hesscomp.factors.factor import Factor, finite_shift
from hesscomp.parallel.layout import Replicated


@dataclass(frozen=True, eq=False, repr=False)
class Kronecker(Factor):
    """A block diagonal matrix whose block of a layer has a Kronecker product of eigenbases.

    The block of a layer of a inputs (the bias's 1 is one of them) and d outputs is
    (Q x R) diag(s) (Q x R)^T with Q orthogonal of order a, R of order d, and any a d numbers s.
    Those of K-FAC, A x G, are products of the eigenvalues of A and G (Martens and Grosse 2015);
    those of E-KFAC are chosen freely (George and others 2018). The parameters of no layer have a
    diagonal block. `problem.kronecker` and `hesscomp.kfac` make such factors.

    All functions of F + shift I are exact. A product or `solve` takes 4 a d (a + d) operations for
    each layer and column; the memory is that of n numbers and of all Q and R.

    Attributes
    ----------
    spectrum : (n,) float64 array
        The eigenvalues: s of each layer in the place of its parameters, and the diagonal of the
        others; in the row layout this rank's part.
    bases : (words,) float64 array
        Q and R of the first layer, row by row, then those of the next.
    layers : (layers, 3) float64 array
        Of each layer in the order of the parameters: its first parameter, a and d.

    Raises
    ------
    ValueError
        Where layers overlap, or the bases do not fit them.

    Examples
    --------
    >>> import numpy as np
    >>> from hesscomp.factors import Kronecker
    >>> A, G = np.diag([2.0, 1.0]), np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> pairs = [np.linalg.eigh(matrix) for matrix in (A, G)]
    >>> (v, Q), (w, R) = pairs
    >>> F = Kronecker.of_layers([(0, Q, R, np.outer(v, w))], np.zeros(4))
    >>> np.allclose(F.to_dense(), np.kron(A, G)), F
    (True, <kronecker factor: n 4, holds 1 Kronecker block, relative error not measured>)
    >>> np.allclose((F.to_dense() + np.eye(4)) @ F.solve(np.ones(4), shift=1.0), 1.0)
    True
    """

    spectrum: np.ndarray
    bases: np.ndarray
    layers: np.ndarray

    kind = "kronecker"
    arrays = MappingProxyType(
        {"spectrum": ("n",), "bases": ("words",), "layers": ("layers", "numbers")}
    )

    def __post_init__(self):
        super().__post_init__()
        end = words = 0
        for first, a, d in self.layers:
            if first < end or min(a, d) < 1 or not np.array_equal(self.layers, self.layers // 1):
                raise ValueError("the layers of a Kronecker factor overlap or are empty")
            end, words = first + a * d, words + a * a + d * d
        if end > self.n or words != len(self.bases):
            raise ValueError("the bases of a Kronecker factor do not fit its layers")

    @classmethod
    def of_layers(
        cls,
        layers: Iterable[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
        diagonal: np.ndarray,
        **about,
    ) -> "Kronecker":
        """Return the factor of layers: (first parameter, Q, R, (a, d) array of eigenvalues) each.

        `diagonal` are n numbers, of which those of the layers' parameters do not matter; `about`
        are fields of every `Factor`; its certificate is `UNKNOWN` by default.
        """
        spectrum, bases, table = np.array(diagonal, dtype=np.float64), [np.empty(0)], []
        for first, Q, R, s in sorted(layers, key=lambda layer: layer[0]):
            spectrum[first : first + s.size] = s.ravel()
            bases += [Q.ravel(), R.ravel()]
            table.append((first, len(Q), len(R)))
        return cls(
            **{"certificate": UNKNOWN, **about},
            spectrum=spectrum,
            bases=np.concatenate(bases),
            layers=np.array(table, dtype=np.float64).reshape(-1, 3),
        )

    @classmethod
    def most(cls, n: int) -> int:
        return n * n + n + 3  # a^2 + d^2 <= (a d)^2 + 1

    @property
    def extent(self) -> str:
        count, rest = len(self.layers), len(self._rest())
        blocks = f"{count} Kronecker block{'' if count == 1 else 's'}"
        return f"{blocks} and {rest} diagonal entries" if rest else blocks

    def details(self, leading: int = 10) -> dict[str, str]:
        values = np.sort(self._spectrum())[::-1][:leading]
        told = [f"{name} ({form})" for name, form in self.forms.items()]
        return {
            "trace": f"{self.trace():.6g}",
            "layers": "  ".join(told) or self.extent,
            "largest eigenvalues": "  ".join(f"{value:.4g}" for value in values),
        }

    @property
    def forms(self) -> dict[str, str]:
        """What stands for each layer of `blocks`, by its name: "785 x 10", or "diagonal"."""
        sides = {int(first): f"{a:.0f} x {d:.0f}" for first, a, d in self.layers}
        found: dict[str, str] = {}
        for name, _, offset in self.blocks:
            found.setdefault(name.rpartition("/")[0] or name, sides.get(offset, "diagonal"))
        return found

    def layer(self, name: str) -> "Kronecker":
        """Return the diagonal block of one layer of `blocks`, a factor of its own order.

        The name is a layer's ("dense"), or of a parameter with a block of its own. Collective in
        the row layout; the result is replicated.

        Raises
        ------
        InputError
            If there is no such name, or it is that of a part of a layer's block.
        """
        held = [b for b in self.blocks if b[0] == name or b[0].startswith(f"{name}/")]
        if not held:
            known = ", ".join(self.forms) or "not noted in this factor"
            raise InputError(f"no layer is called {name}; the layers are {known}")
        first, size = held[0][2], sum(int(np.prod(shape)) for _, shape, _ in held)
        inside = []
        for start, Q, R in self._layers():
            stop = start + len(Q) * len(R)
            if first <= start and stop <= first + size:
                s = self._spectrum()[start:stop].reshape(len(Q), len(R))
                inside.append((start - first, Q, R, s))
            elif start < first + size and first < stop:
                raise InputError(f"{name} is a part of a layer's block; take the layer's name")
        return Kronecker.of_layers(
            inside,
            self._spectrum()[first : first + size],
            provenance=self.provenance,
            parameters=None if self.parameters is None else self.parameters[first : first + size],
            blocks=tuple((name, shape, offset - first) for name, shape, offset in held),
            layout=Replicated(size, self.world),
        )

    def _layers(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Each layer's first parameter, Q and R."""
        at = 0
        for first, a, d in self.layers.astype(np.int64):
            Q = self.bases[at : at + a * a].reshape(a, a)
            R = self.bases[at + a * a : at + a * a + d * d].reshape(d, d)
            yield int(first), Q, R
            at += a * a + d * d

    def _rest(self) -> np.ndarray:
        """Return the indices of the parameters of no layer."""
        inside = [first + np.arange(len(Q) * len(R)) for first, Q, R in self._layers()]
        return np.setdiff1d(np.arange(self.n), np.concatenate([np.empty(0), *inside]))

    def _times(self, numbers: np.ndarray, B: np.ndarray) -> np.ndarray:
        """Return the product with these numbers in place of the eigenvalues."""

        def whole(V):
            out = numbers[:, None] * V
            for first, Q, R in self._layers():
                part = slice(first, first + len(Q) * len(R))
                T = np.swapaxes(V[part], 0, 1).reshape(-1, len(Q), len(R))
                T = Q @ (numbers[part].reshape(len(Q), len(R)) * (Q.T @ T @ R)) @ R.T
                out[part] = T.reshape(len(T), -1).T
            return out

        block = B if B.ndim > 1 else B[:, None]
        return self.layout.product(block, whole).reshape(B.shape)

    def block_product(self, V: np.ndarray) -> np.ndarray:
        return self._times(self._spectrum(), V)

    def solve(self, B: np.ndarray, shift: float) -> np.ndarray:
        """Solve (F + shift I) X = B for an (n,) or (n, j) array, exactly.

        Raises
        ------
        InputError
            If an eigenvalue plus the shift is 0, or the shapes do not fit.
        """
        B, shifted = self.checked(B), self._spectrum() + finite_shift(shift)
        if not shifted.all():
            raise self._singular(shift, shifted)
        return self._times(1 / shifted, B)

    def _singular(self, shift: float, shifted: np.ndarray) -> InputError:
        return InputError(
            f"the factor with shift {shift:g} is singular: {np.count_nonzero(shifted == 0)} of "
            "its eigenvalues are 0; take a positive shift"
        )

    def diagonal(self) -> np.ndarray:
        d = self._spectrum().copy()
        for first, Q, R in self._layers():
            part = slice(first, first + len(Q) * len(R))
            d[part] = (Q**2 @ d[part].reshape(len(Q), len(R)) @ (R**2).T).ravel()
        return self.layout.local(d)

    def inverse_diagonal(self, shift: float) -> np.ndarray:  # type: ignore[override]  # no tail
        """Return the diagonal of (F + shift I)^-1; InputError where an eigenvalue is 0."""
        shifted = self._spectrum() + finite_shift(shift)
        if not shifted.all():
            raise self._singular(shift, shifted)
        return replace(self, spectrum=self.layout.local(1 / shifted)).diagonal()

    def quadratic_form(self, V: np.ndarray) -> np.ndarray | float:
        V = self.checked(V)
        columns = V if V.ndim > 1 else V[:, None]
        ones = np.ones((len(columns), 1))
        form = self.layout.inner(ones, columns * self.block_product(columns))[0]
        return form if V.ndim > 1 else float(form[0])

    def preconditioner(self, shift: float, split: bool = False) -> "Kronecker":
        """Return (F + shift I)^-1, with |s + shift| or its rounding level for each eigenvalue.

        With `split` a layer's block of A x G, semidefinite, becomes the inverse of
        (A + pi gamma I) x (G + gamma / pi I), where gamma^2 = shift and pi^2 is the ratio of the
        mean eigenvalues of A and G (Martens and Grosse 2015, section 6.3). That damps more, and is
        better where the factor was made of few targets for each row.
        """
        shifted = self._spectrum() + finite_shift(shift)
        for first, Q, R in self._layers() if split else ():
            part = slice(first, first + len(Q) * len(R))
            s = shifted[part].reshape(len(Q), len(R)) - shift
            by_input, by_output, mean = s.mean(1, keepdims=True), s.mean(0), s.mean()
            if mean > 0:
                shifted[part] += (np.sqrt(shift / mean) * (by_input + by_output)).ravel()
        shifted = np.abs(shifted)
        inverse = 1 / np.maximum(shifted, self.floor(shift))
        return replace(self, spectrum=self.layout.local(inverse), certificate=UNKNOWN)

    def _spectrum(self) -> np.ndarray:
        return self._whole(self.spectrum)  # as many words as the point has
