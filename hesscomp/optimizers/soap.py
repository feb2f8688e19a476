"""SOAP: Adam in the eigenbases of Kronecker factors, layer by layer, the layers over the ranks.

Vyas and others, "SOAP: improving and stabilizing Shampoo using Adam" (ICLR 2025), algorithm 3, and
the authors' code (github.com/nikhilvyas/SOAP).
"""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cache
from itertools import accumulate, pairwise

import numpy as np

from hesscomp.optimizers.batches import Batches
from hesscomp.optimizers.first_order import Adam, FirstOrder
from hesscomp.optimizers.optimizer import SPREAD, Outcome
from hesscomp.optimizers.options import GRADIENT
from hesscomp.optimizers.schedules import Schedule
from hesscomp.options import option, option_of
from hesscomp.problems.problem import ParameterBlock

# Times the mean eigenvalue: keeps directions that no gradient has had as they are. In float32
# rounding is above it and turns them; a shift above that was not better on the CNN.
SHIFT = 1e-7
NONE = 1e-12  # times the largest eigenvalue, up to which one counts as zero


@dataclass(frozen=True)
class SOAP(FirstOrder):
    """Adam's step in a basis of each layer's own: that in which its gradients are least correlated.

    The gradient of a layer of a inputs (the bias's 1 is one of them) and d outputs is an (a, d)
    matrix G; a convolution's kernel has a row for each of its taps. The running means of G G^T and
    G^T G have nearly the eigenvectors Q and R, which a step of the power method follows every so
    many steps; Adam's means are those of Q^T G R. Other parameters have Adam's own step. The first
    gradient only makes the first bases.

    Notes
    -----
    A step costs the gradient of its batch, and for each side of n that is rotated, the other one
    being k, about 3 n^2 k multiply-adds, and 5 n^3 in every step that renews the bases. The sides
    are rotated in the order of their costs, while these add up to no more than `rotation` times
    the gradient's. Each rank does this for some of the layers, and holds only their numbers: two of
    each parameter, and 2 n^2 of each side. One gather of as many words as parameters. Products with
    bases are computed in the batch's `gradient_dtype`.

    On convolutional networks it leads all other methods here; on networks of dense layers, where
    few sides are cheap enough, Kronecker-preconditioned `HessianFree` does.

    Examples
    --------
    >>> import keras, numpy as np
    >>> import hesscomp as hc
    >>> keras.utils.set_random_seed(0)
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> data = np.eye(2), np.array([1.0, 2.0])
    >>> hc.train(model, hc.SOAP(0.1), "mse", data, max_steps=80).best_objective < 1e-2
    True
    """

    learning_rate: float | str | Schedule = option_of(FirstOrder, "learning_rate", default=3e-3)
    beta1: float = option_of(Adam, "beta1", default=0.95)
    beta2: float = option_of(Adam, "beta2", default=0.95)
    epsilon: float = option_of(Adam, "epsilon")
    _: KW_ONLY
    memory: float = option(
        0.95, low=0, below=1, help="decay of the means whose eigenvectors are the bases"
    )
    every: int = option(10, low=1, help="steps from one basis to the next")
    rotation: float = option(
        0.25, low=0, help="most that the bases may cost, as a share of the gradient's cost"
    )
    name = "soap"
    moments = ()

    def part_here(self, batches):
        layers, shares = self._layout(batches)
        ends = [0, *accumulate(layer.numbers for layer in layers)]
        mine = shares[batches.problem.world.rank]
        return ends[mine.start], ends[mine.stop]

    def _layout(self, batches: Batches) -> tuple[tuple["Layer", ...], list[slice]]:
        """Return all layers, and which of them each rank has."""
        problem = batches.problem
        rows = batches.sampling.share(GRADIENT, problem.rows) * problem.rows
        allowed = self.rotation * rows * problem.row_work
        layers = layers_of(problem.parameter_blocks, allowed, self.every)
        return layers, shares([layer.work for layer in layers], problem.world.size)

    def step(self, task, state):
        if state["steps"]:
            return super().step(task, state)
        spread = state[SPREAD].copy()
        for layer, G, parts in self._mine(task, spread):
            layer.begin(G, parts, 1 - self.memory)
        values = {"learning_rate": 0.0, "step_length": 0.0}
        return Outcome(task.x.copy(), {**state, "steps": 1, SPREAD: spread}, values)

    def _direction(self, task, state):
        state[SPREAD] = state[SPREAD].copy()
        k = state["steps"] - 1  # the first gradient made the bases
        found = [np.empty(0)]
        kind = task.gradient_batch.problem.gradient_dtype
        for layer, G, parts in self._mine(task, state[SPREAD]):
            m, v, sides = layer.views(parts)
            G, bases = G.astype(kind, copy=False), [side.basis(kind) for side in sides]
            g = rotated(G, bases)
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g**2 - v)
            mean, square = m / (1 - self.beta1**k), v / (1 - self.beta2**k)
            adam = (mean / (np.sqrt(square) + self.epsilon)).astype(kind, copy=False)
            found.append(-rotated(adam, bases, back=True).ravel())
            layer.learn(G, sides, 1 - self.memory)
            if k % self.every == 0:
                layer.turn(m, v, sides, kind)
        layers, shares = self._layout(task.batches)
        counts = [sum(layer.size for layer in layers[share]) for share in shares]
        return task.world.gather_rows(np.concatenate(found)[:, None], counts)[:, 0]

    def _mine(self, task, spread: np.ndarray) -> Iterator[tuple["Layer", np.ndarray, np.ndarray]]:
        """Yield this rank's layers with their gradients and their parts of the state."""
        layers, shares = self._layout(task.batches)
        at = 0
        for layer in layers[shares[task.world.rank]]:
            yield layer, layer.matrix(task.gradient), spread[at : at + layer.numbers]
            at += layer.numbers


Basis = tuple[int, np.ndarray]  # axis, orthonormal columns


@dataclass(frozen=True)
class Side:
    """An axis of a layer, the mean S of G G^T or G^T G, and its basis Q."""

    axis: int
    S: np.ndarray
    Q: np.ndarray

    def basis(self, kind: str) -> Basis:
        return self.axis, self.Q.astype(kind, copy=False)


@dataclass(frozen=True)
class Layer:
    """Parameters that are an (inputs, outputs) matrix, and which of its axes are rotated.

    Its part of the state: m, v, and for each of these axes the mean and its basis.
    """

    first: int
    shape: tuple[int, int]
    axes: tuple[int, ...]
    work: float  # multiply-adds of a step

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def numbers(self) -> int:
        return 2 * self.size + sum(2 * self.shape[axis] ** 2 for axis in self.axes)

    def matrix(self, x: np.ndarray) -> np.ndarray:
        return x[self.first : self.first + self.size].reshape(self.shape)

    def views(self, parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[Side]]:
        """Return m, v and the sides, as views of the layer's part of the state."""
        m, v = parts[: 2 * self.size].reshape(2, *self.shape)
        sides, at = [], 2 * self.size
        for n, axis in ((self.shape[axis], axis) for axis in self.axes):
            sides.append(Side(axis, *parts[at : at + 2 * n * n].reshape(2, n, n)))
            at += 2 * n * n
        return m, v, sides

    def learn(self, G: np.ndarray, sides: list[Side], share: float) -> None:
        """Renew the running means."""
        for side in sides:
            S, product = side.S, G.T @ G if side.axis else G @ G.T
            product *= share  # all in place, as a copy takes as long as the product
            S *= 1 - share
            S += product

    def begin(self, G: np.ndarray, parts: np.ndarray, share: float) -> None:
        """Make the first means and their eigenvectors, those of the largest eigenvalues first.

        The basis of what is left is a smooth function of them: rounding does not decide on it.
        """
        sides = self.views(parts)[2]
        self.learn(G, sides, share)
        for side in sides:
            values, vectors = np.linalg.eigh(side.S)
            found = vectors[:, values > NONE * values[-1]]
            side.Q[:] = np.linalg.qr(found[:, ::-1], mode="complete")[0]

    def turn(self, m: np.ndarray, v: np.ndarray, sides: list[Side], kind: str) -> None:
        """Follow the means by one step of the power method, in the order of the eigenvalues."""
        for side in sides:
            axis, Q = side.basis(kind)
            S = side.S.astype(kind, copy=False)
            powers = S @ Q + SHIFT * float(np.trace(S)) / len(S) * Q
            order = np.argsort(-np.sum(Q * powers, axis=0), kind="stable")
            v[:] = np.take(v, order, axis)
            new = np.linalg.qr(powers[:, order])[0]
            old = rotated(m.astype(kind, copy=False), [(axis, Q)], back=True)
            m[:] = rotated(old, [(axis, new)])
            side.Q[:] = new


def rotated(G: np.ndarray, bases: list[Basis], back: bool = False) -> np.ndarray:
    """Return G in the bases of its sides, or back."""
    for axis, Q in bases:
        turned = Q.T if back else Q
        G = G @ turned if axis else turned.T @ G
    return G


@cache
def layers_of(blocks: tuple[ParameterBlock, ...], allowed: float, every: int) -> tuple[Layer, ...]:
    """Return the layers of all parameters, rotated where that costs `allowed` at most in all.

    A block of two axes or more is a matrix, with the outputs along its last axis; the block after
    it is its bias where it has the same owner and one number for each output.
    """
    places, rest = [], list(blocks)
    while rest:
        block = rest.pop(0)
        rows, outputs = (block.size, 1) if len(block.shape) < 2 else _sides(block)
        if outputs > 1 and rest and _is_bias(rest[0], block):
            rows += 1
            rest.pop(0)
        if block.size:
            places.append((block.offset, (rows, outputs)))
    costs = {
        (first, axis): 3.0 * shape[axis] * rows * outputs + 5.0 * shape[axis] ** 3 / every
        for first, shape in places
        for rows, outputs in [shape]
        for axis in range(2)
        if min(shape) > 1
    }
    chosen: dict[tuple[int, int], float] = {}
    for side, cost in sorted(costs.items(), key=lambda item: item[1]):
        if sum(chosen.values()) + cost > allowed:
            break
        chosen[side] = cost
    return tuple(
        Layer(first, shape, axes := tuple(a for a in range(2) if (first, a) in chosen),
              shape[0] * shape[1] + sum(chosen[first, axis] for axis in axes))
        for first, shape in places
    )  # fmt: skip


def _sides(block: ParameterBlock) -> tuple[int, int]:
    return int(np.prod(block.shape[:-1])), block.shape[-1]


def _is_bias(block: ParameterBlock, kernel: ParameterBlock) -> bool:
    owners = {each.name.rpartition("/")[0] for each in (block, kernel)}
    return block.shape == kernel.shape[-1:] and len(owners) == 1


def shares(work: list[float], ranks: int) -> list[slice]:
    """Cut a list of works into as many slices, of about equal sums."""
    ends = np.cumsum(work)
    owner = (ends - np.array(work) / 2) * ranks / ends[-1]
    cuts = np.searchsorted(owner, np.arange(ranks + 1))
    return [slice(int(a), int(b)) for a, b in pairwise(cuts)]
