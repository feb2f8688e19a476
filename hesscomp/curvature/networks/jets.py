"""Jets: a network's values and their derivatives by its inputs, as the output of another network.

Of a network with d inputs and c outputs, a row of `Level.LAPLACIAN` is (d + 2) c numbers: u, its d
first derivatives and its Laplacian, of c numbers each. So a jet network is a network like any
other, from rows to rows, and an engine's products with its derivatives by the parameters serve
losses of differential expressions in u.
"""

from collections.abc import Callable
from enum import IntEnum

from hesscomp.curvature.networks.generic import refuse_stopped_gradients
from hesscomp.curvature.tensorflow import ZERO, tf
from hesscomp.errors import InputError


class Level(IntEnum):
    """What a jet holds; each level what the level before it does, and more.

    U: u. DU: the first derivatives. LAPLACIAN: the sum of the second ones by each input twice. D2U:
    the second derivatives by x_i and x_j for i <= j, in the order (1, 1), (1, 2), ..., (d, d).
    """

    U, DU, LAPLACIAN, D2U = range(4)

    def channels(self, d: int) -> int:
        """Return how many numbers a jet holds for each output of a network of d inputs."""
        return (1, 1 + d, 2 + d, 2 + d + len(pairs(d)))[self]


def pairs(d: int) -> list[tuple[int, int]]:
    """Return (i, j) for i <= j < d, in the order of the second derivatives of a jet."""
    return [(i, j) for i in range(d) for j in range(i, d)]


def jet_function(network: Callable, level: Level) -> Callable:
    """Return the jets of ``network(theta, X)``, (B, c), as such a function: (B, channels * c).

    By nested tapes: c gradients by the rows, and d c gradients of these from the Laplacian on. A
    row's output must depend on that row alone.

    Raises
    ------
    InputError
        When called: if the network's output is no matrix, or the graph stops a gradient on its way
        from the rows.
    """

    def function(theta, X):
        X = tf.identity(X)
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(X)
            with tf.GradientTape(persistent=True) as inner:
                inner.watch(X)
                output = network(theta, X)
                values = _columns(output)
            if level >= Level.DU:
                slopes = [_columns(_gradient(inner, value, X)) for value in values]
        refuse_stopped_gradients(X)
        channels = [output]
        if level >= Level.DU:
            channels += [tf.stack(slope, 1) for slope in zip(*slopes, strict=True)]
        if level >= Level.LAPLACIAN:  # bends[c][i][:, j] is the derivative by x_i and x_j
            bends = [[_gradient(outer, entry, X) for entry in slope] for slope in slopes]
            diagonals = [[bend[:, i] for i, bend in enumerate(bend_of)] for bend_of in bends]
            channels.append(tf.stack([tf.add_n(diagonal) for diagonal in diagonals], 1))
        if level >= Level.D2U:
            channels += [tf.stack([b[i][:, j] for b in bends], 1) for i, j in pairs(X.shape[1])]
        return tf.concat(channels, 1)

    return function


def _gradient(tape: tf.GradientTape, value: tf.Tensor, X: tf.Tensor) -> tf.Tensor:
    return tape.gradient(value, X, unconnected_gradients=ZERO)


def _columns(rows: tf.Tensor) -> list[tf.Tensor]:
    if rows.shape.rank != 2:
        raise InputError(
            f"a network's derivatives by its inputs need a row of numbers for each point, (B, c); "
            f"this one gives {tuple(rows.shape)}: end it with a Flatten layer"
        )
    return tf.unstack(rows, axis=1)
