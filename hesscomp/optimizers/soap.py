"""SOAP: Adam in the eigenbases of Kronecker factors, layers' steps and means over the ranks.

Vyas and others, "SOAP: improving and stabilizing Shampoo using Adam" (ICLR 2025), algorithm 3, and
the authors' code (github.com/nikhilvyas/SOAP).
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import scipy.linalg

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
RENEWAL = 5.0  # times n^3: multiply-adds of a new basis
MEANS_FIRST = "means_first"  # marks states in which the means of a layer come first
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
    the gradient's. Each rank makes the steps of some layers and follows the means of some sides,
    and holds only their numbers: two of each parameter, n^2 of each basis, and n^2 of each mean.
    One gather of as many words as parameters; where bases are renewed, two more, of those whose
    mean another rank follows. Products with bases are computed in the batch's `gradient_dtype`.

    On convolutional networks it leads all other methods here; on networks of dense layers, where
    few sides are cheap enough, `HessianFree` does.

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

    def start(self, x):
        return {**super().start(x), MEANS_FIRST: 1}

    def part_here(self, batches):
        parts, shares = self._parts(batches)
        ends = [0, *accumulate(part.numbers for part in parts)]
        mine = shares[batches.problem.world.rank]
        return ends[mine.start], ends[mine.stop]

    def _parts(self, batches: Batches) -> tuple[tuple["Part", ...], list[slice]]:
        """Return what there is to do for all layers, and which of it each rank does."""
        problem = batches.problem
        rows = batches.sampling.share(GRADIENT, problem.rows) * problem.rows
        allowed = self.rotation * rows * problem.row_work
        return division(problem.parameter_blocks, allowed, self.every, problem.world.size)

    def step(self, task, state):
        if state["steps"]:
            return super().step(task, state)
        mine, spread = self._learn(task, state[SPREAD], task.gradient)
        self._renew(task, mine, first_basis)
        values = {"learning_rate": 0.0, "step_length": 0.0}
        return Outcome(task.x.copy(), {**state, "steps": 1, SPREAD: spread}, values)

    def _direction(self, task, state):
        k = state["steps"] - 1  # the first gradient made the bases
        kind = task.gradient_batch.problem.gradient_dtype
        gradient = task.gradient.astype(kind, copy=False)
        mine, state[SPREAD] = self._learn(task, state[SPREAD], gradient)
        found = [np.empty(0)]
        for part, held in mine:
            if part.side is None:
                found.append(self._adam(k, part.layer, gradient, held))
        if k % self.every == 0:
            self._renew(task, mine, next_basis, kind)
        parts, shares = self._parts(task.batches)
        counts = [sum(p.layer.size for p in parts[share] if p.side is None) for share in shares]
        return task.world.gather_rows(np.concatenate(found)[:, None], counts)[:, 0]

    def _adam(self, k: int, layer: "Layer", gradient: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Renew m and v, and return Adam's step."""
        m, v, bases = layer.views(held)
        bases = {axis: Q.astype(gradient.dtype, copy=False) for axis, Q in bases.items()}
        g = rotated(layer.matrix(gradient), bases)
        m += (1 - self.beta1) * (g - m)
        v += (1 - self.beta2) * (g**2 - v)
        mean, square = m / (1 - self.beta1**k), v / (1 - self.beta2**k)
        adam = (mean / (np.sqrt(square) + self.epsilon)).astype(gradient.dtype, copy=False)
        return -rotated(adam, bases, back=True).ravel()

    def _mine(self, task, spread: np.ndarray) -> list[tuple["Part", np.ndarray]]:
        """Return what this rank does, with its numbers of the state, as views."""
        parts, shares = self._parts(task.batches)
        mine = parts[shares[task.world.rank]]
        ends = [0, *accumulate(part.numbers for part in mine)]
        return [(part, spread[a:b]) for part, (a, b) in zip(mine, pairwise(ends), strict=True)]

    def _learn(
        self, task, before: np.ndarray, gradient: np.ndarray
    ) -> tuple[list[tuple["Part", np.ndarray]], np.ndarray]:
        """Return what this rank does, as `_mine`, and its new numbers: the means with a gradient.

        The others are as before; nothing is changed in place, as a step may have to be made again.
        """
        spread = np.empty_like(before)
        mine = self._mine(task, spread)
        for (part, held), (_, was) in zip(mine, self._mine(task, before), strict=True):
            if part.side is None:
                held[:] = was
            else:
                part.learn(gradient, was, held, 1 - self.memory)
        return mine, spread

    def _renew(self, task, mine, basis: Callable, kind: str = "float64") -> None:
        """Give all layers new bases: ``basis(S, Q)``, by the ranks that have the means. Collective.

        A basis goes to the rank that has the mean, and the new one comes back.
        """
        parts, shares = self._parts(task.batches)
        ranks = [rank for rank, share in enumerate(shares) for _ in parts[share]]
        following = {part.side: rank for part, rank in zip(parts, ranks, strict=True) if part.side}
        stepping = {
            side: rank for part, rank in zip(parts, ranks, strict=True) if part.side is None
            for side in part.layer.sides
        }  # fmt: skip
        apart = [side for side in following if following[side] != stepping[side]]
        old: dict[Side, np.ndarray] = {}
        new: dict[Side, np.ndarray] = {}
        for part, held in mine:
            if part.side is None:
                bases = part.layer.views(held)[2]
                old |= {side: bases[side.axis].astype(kind) for side in part.layer.sides}
        old |= _gathered(task.world, apart, stepping, old, 0, kind)
        for part, held in mine:
            if part.side is not None:
                S = held.reshape(2 * (part.side.n,)).astype(kind, copy=False)
                new[part.side] = basis(S, old[part.side]).astype(kind, copy=False)
        new |= _gathered(task.world, apart, following, new, 1, kind)
        for part, held in mine:
            if part.side is None:
                for side in part.layer.sides:
                    part.layer.turn(held, side.axis, new[side])


class Side(NamedTuple):
    """An axis of the layer that begins at a parameter, of n numbers."""

    first: int
    axis: int
    n: int


@dataclass(frozen=True)
class Layer:
    """Parameters that are an (inputs, outputs) matrix, and which of its axes are rotated.

    Its own numbers are m, v and the basis of each of these axes.
    """

    first: int
    shape: tuple[int, int]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def sides(self) -> list[Side]:
        return [Side(self.first, axis, self.shape[axis]) for axis in self.axes]

    def matrix(self, x: np.ndarray) -> np.ndarray:
        return x[self.first : self.first + self.size].reshape(self.shape)

    def views(self, held: np.ndarray) -> tuple[np.ndarray, np.ndarray, dict[int, np.ndarray]]:
        """Return m, v and the bases by their axes, as views."""
        m, v = held[: 2 * self.size].reshape(2, *self.shape)
        bases, at = {}, 2 * self.size
        for _, axis, n in self.sides:
            bases[axis] = held[at : at + n * n].reshape(n, n)
            at += n * n
        return m, v, bases

    def turn(self, held: np.ndarray, axis: int, new: np.ndarray) -> None:
        """Take an axis' new basis, whose last row is the order of the old columns in it."""
        m, v, bases = self.views(held)
        new, order = new[:-1], new[-1].astype(int)
        v[:] = np.take(v, order, axis)
        Q = bases[axis].astype(new.dtype, copy=False)
        old = rotated(m.astype(new.dtype, copy=False), {axis: Q}, back=True)
        m[:] = rotated(old, {axis: new})
        bases[axis][:] = new


@dataclass(frozen=True)
class Part:
    """What one rank does: a layer's steps, or following the mean S of G G^T or G^T G of a side."""

    layer: Layer
    side: Side | None
    numbers: int
    work: float  # multiply-adds of a step
    renewal: float = 0.0  # those of a new basis

    def learn(self, x: np.ndarray, was: np.ndarray, held: np.ndarray, share: float) -> None:
        """Write to `held` a side's mean, renewed by a gradient.

        In place, as a copy takes as long as the product.
        """
        assert self.side is not None
        G = self.layer.matrix(x)
        product = G.T @ G if self.side.axis else G @ G.T
        product *= share
        np.multiply(was, 1 - share, out=held)
        held += product.ravel()


def first_basis(S: np.ndarray, _) -> np.ndarray:
    """Return the eigenvectors of the first mean, those of the largest eigenvalues first.

    As `next_basis`. The basis of what is left is a smooth function of them: rounding does not
    decide on it.
    """
    values, vectors = np.linalg.eigh(S)
    found = vectors[:, values > NONE * values[-1]]
    new = np.linalg.qr(found[:, ::-1], mode="complete")[0]
    return np.vstack([new, np.arange(len(S))])


def next_basis(S: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Follow the mean by one step of the power method, in the order of the eigenvalues.

    The last row is the order of the old columns.
    """
    powers = S @ Q + SHIFT * float(np.trace(S)) / len(S) * Q
    order = np.argsort(-np.sum(Q * powers, axis=0), kind="stable")
    # SciPy's QR takes less than half of the time of NumPy's. Its columns are stored one after the
    # other: a copy by rows, as a basis that another rank sends, has the same bits in products.
    found = scipy.linalg.qr(powers[:, order], overwrite_a=True, mode="economic", check_finite=False)
    new = np.empty((len(S) + 1, len(S)), powers.dtype)
    new[:-1], new[-1] = found[0], order
    return new


def _gathered(
    world, sides: list[Side], holders: dict[Side, int], arrays: dict[Side, np.ndarray],
    extra_rows: int, kind: str,
) -> dict[Side, np.ndarray]:  # fmt: skip
    """Return the sides' (n + extra_rows, n) arrays, of which each has one holder, on every rank.

    The sides are in the order of their holders' ranks.
    """
    if not sides:
        return {}
    sizes = [(side.n + extra_rows) * side.n for side in sides]
    own = [arrays[side].ravel() for side in sides if holders[side] == world.rank]
    counts = [0] * world.size
    for side, size in zip(sides, sizes, strict=True):
        counts[holders[side]] += size
    whole = world.gather_rows(np.concatenate([np.empty(0, kind), *own])[:, None], counts)
    ends = pairwise([0, *accumulate(sizes)])
    return {side: whole[a:b].reshape(-1, side.n) for side, (a, b) in zip(sides, ends, strict=True)}


def rotated(G: np.ndarray, bases: dict[int, np.ndarray], back: bool = False) -> np.ndarray:
    """Return G in the bases of its axes, or back."""
    for axis, Q in bases.items():
        turned = Q.T if back else Q
        G = G @ turned if axis else turned.T @ G
    return G


@cache
def division(
    blocks: tuple[ParameterBlock, ...], allowed: float, every: int, ranks: int
) -> tuple[tuple[Part, ...], list[slice]]:
    """Return what there is to do for the layers of these blocks, and which of it each rank does."""
    parts = parts_of(blocks, allowed, every)
    return parts, shares(parts, ranks, every)


def parts_of(blocks: tuple[ParameterBlock, ...], allowed: float, every: int) -> tuple[Part, ...]:
    """Return what there is to do for the layers of these blocks, as `layers_of` has them."""
    parts = []
    for layer in layers_of(blocks, allowed, every):
        for side in layer.sides:
            work = float(side.n * layer.size)
            parts.append(Part(layer, side, side.n**2, work, RENEWAL * side.n**3))
        squares = sum(side.n**2 for side in layer.sides)
        work = layer.size * (1.0 + sum(2.0 * side.n for side in layer.sides))
        parts.append(Part(layer, None, 2 * layer.size + squares, work))
    return tuple(parts)


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
        (first, axis): 3.0 * shape[axis] * rows * outputs + RENEWAL * shape[axis] ** 3 / every
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
        Layer(first, shape, tuple(axis for axis in range(2) if (first, axis) in chosen))
        for first, shape in places
    )


def _sides(block: ParameterBlock) -> tuple[int, int]:
    return int(np.prod(block.shape[:-1])), block.shape[-1]


def _is_bias(block: ParameterBlock, kernel: ParameterBlock) -> bool:
    owners = {each.name.rpartition("/")[0] for each in (block, kernel)}
    return block.shape == kernel.shape[-1:] and len(owners) == 1


def shares(parts: tuple[Part, ...], ranks: int, every: int) -> list[slice]:
    """Cut the parts into as many slices, so that the ranks wait for each other least.

    They do in every step, and most where the bases are renewed: then a large side keeps its rank,
    and no other part makes up for it. So the slices have equal sums of the steps' work, or of that
    and of the renewals', whichever takes less time.
    """
    work = np.array([part.work for part in parts])
    renewals = np.array([part.renewal for part in parts]) / every

    def slowest(cut: list[slice]) -> float:
        return sum(max(each[some].sum() for some in cut) for each in (work, renewals))

    return min((equal_slices(each, ranks) for each in (work, work + renewals)), key=slowest)


def equal_slices(work: np.ndarray, ranks: int) -> list[slice]:
    """Cut an array into as many slices, of about equal sums."""
    ends = np.cumsum(work)
    owner = (ends - work / 2) * ranks / ends[-1]
    cuts = np.searchsorted(owner, np.arange(ranks + 1))
    return [slice(int(a), int(b)) for a, b in pairwise(cuts)]
