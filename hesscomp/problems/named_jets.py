"""A network's value and derivatives at points by name, as residuals and energies take them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from hesscomp.curvature.networks.jets import Level, pairs
from hesscomp.curvature.tensorflow import ZERO, one_precision, tf
from hesscomp.errors import InputError, reason

LEVELS = ("u", "du", "laplacian", "d2u")  # the names of what each `Level` adds


@dataclass(frozen=True)
class Jets:
    """How a flat row of a jet network becomes u, du, laplacian and d2u, for one function of them.

    With a distance function D and values g on the boundary they are those of u = g + D N, of the
    network N.

    Attributes
    ----------
    dimension, components : int
        d of a point, and c of u.
    taken : tuple of str
        What the function takes, in its order.
    """

    dimension: int
    components: int
    taken: tuple[str, ...]
    distance: Callable | None = None
    boundary_values: Callable | None = None

    def __post_init__(self):
        if self.boundary_values is not None and self.distance is None:
            raise InputError(
                "`boundary_values` go with a `distance`, which is zero where they hold"
            )

    @property
    def level(self) -> Level:
        """What the network's jets have to hold."""
        return Level(max(LEVELS.index(name) for name in self.taken if name != "x"))

    @property
    def width(self) -> int:
        """How many numbers a row of the jet network has."""
        return self.components * self.level.channels(self.dimension)

    def call(self, function: Callable, F: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Return ``function``'s numbers for (B, width) jets at points x: (B, r)."""
        named = self.named(F, x)
        with _computed(f"the function {getattr(function, '__name__', '')}"):
            made = tf.convert_to_tensor(function(**{name: named[name] for name in self.taken}))
        if made.dtype != F.dtype or made.shape.rank not in (1, 2):
            raise InputError(
                f"a function of jets gives {made.shape.rank} axes of {made.dtype.name}; it must "
                "give one number for each point, or a row of some numbers"
            )
        if _mixes_points(made, F):
            raise InputError(
                f"a function of jets gives the shape {made.shape} for {_number(F)} points; its "
                "first axis must be that of the points, so reduce over other axes alone"
            )
        if made.shape.rank == 2 and made.shape[1] is None:
            raise InputError(
                "a function of jets gives rows of unknown length, as u - x does, which is (B, B) "
                "for u (B,) and x (B, 1); take a column, u - x[:, 0]"
            )
        return made[:, None] if made.shape.rank == 1 else made

    def named(self, F: tf.Tensor, x: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return u, du, laplacian, d2u as far as there are any, and x."""
        parts = self._parts(F)
        if self.distance is not None:
            parts = self._with_conditions(parts, self.distance, x)
        if self.components == 1:
            parts = [tf.squeeze(part, 1) for part in parts]
        return {**dict(zip(LEVELS, parts, strict=False)), "x": x}

    def _parts(self, F) -> list[tf.Tensor]:
        """Return (B, c), (B, c, d), (B, c) and (B, c, d, d), as far as F holds them."""
        d, c, level = self.dimension, self.components, self.level
        parts = [F[:, :c]]
        if level >= Level.DU:
            parts.append(tf.transpose(tf.reshape(F[:, c : c * (1 + d)], [-1, d, c]), [0, 2, 1]))
        if level >= Level.LAPLACIAN:
            parts.append(F[:, c * (1 + d) : c * (2 + d)])
        if level >= Level.D2U:
            second, order = tf.reshape(F[:, c * (2 + d) :], [-1, len(pairs(d)), c]), pairs(d)
            places = [[order.index((min(i, j), max(i, j))) for j in range(d)] for i in range(d)]
            parts.append(tf.transpose(tf.gather(second, places, axis=1), [0, 3, 1, 2]))
        return parts

    def _with_conditions(self, parts, distance: Callable, x) -> list[tf.Tensor]:
        """Return the derivatives of g + D N from those of N, by the product rule."""
        D = _derivatives(distance, x, self.level, self.components)
        found = [D[0] * parts[0]]
        if self.level >= Level.DU:
            N, dN, dD = parts[0][..., None], parts[1], D[1]
            found.append(dD * N + D[0][..., None] * dN)
        if self.level >= Level.LAPLACIAN:
            cross = 2 * tf.reduce_sum(dD * dN, -1)
            found.append(D[2] * parts[0] + cross + D[0] * parts[2])
        if self.level >= Level.D2U:
            mixed = dD[..., :, None] * dN[..., None, :]
            mixed += tf.linalg.matrix_transpose(mixed)
            found.append(D[3] * N[..., None] + mixed + D[0][..., None, None] * parts[3])
        if self.boundary_values is None:
            return found
        g = _derivatives(self.boundary_values, x, self.level, self.components)
        return [one + other for one, other in zip(found, g, strict=True)]


@contextmanager
def _computed(what: str) -> Iterator[None]:
    """Raise InputError in place of whatever a user's function of tensors raises."""
    try:
        with one_precision(what):
            yield
    except InputError:
        raise
    except Exception as error:  # a user's function raises anything
        what_happened = reason(str(error).partition(" for '{{node")[0]).removesuffix(".")
        raise InputError(
            f"{what} cannot be computed: {what_happened}; it is given tensors, u (B,) and x (B, d) "
            "of B points among them, so that u - x[:, 0] fits and u - x does not, and takes "
            "TensorFlow's functions, tf.sin and not np.sin"
        ) from error


def _mixes_points(made: tf.Tensor, given: tf.Tensor) -> bool:
    """Return whether the first axis of what a function made is known, and not that of the rows."""
    return made.shape[0] is not None and made.shape[0] != given.shape[0]


def _number(rows: tf.Tensor) -> str:
    return "any number of" if rows.shape[0] is None else str(rows.shape[0])


def _derivatives(function: Callable, x: tf.Tensor, level: int, components: int) -> list[tf.Tensor]:
    """Return a function of points and its derivatives, shaped as a network's parts."""
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape(persistent=True) as inner:
            inner.watch(x)
            with _computed("a function of the points"):
                value = tf.convert_to_tensor(function(x), x.dtype)
            mixed = value.shape.rank in (1, 2) and _mixes_points(value, x)
            value = value[:, None] if value.shape.rank == 1 else value
            if mixed or value.shape.rank != 2 or value.shape[1] not in (1, components):
                raise InputError(
                    f"a function of the points gives shape {value.shape}; it must give one number "
                    "for each point, or one for each output of the network"
                )
            each = tf.unstack(value, axis=1)
        slopes = [inner.gradient(one, x, unconnected_gradients=ZERO) for one in each]
        entries = [tf.unstack(slope, axis=1) for slope in slopes]
    found = [value, tf.stack(slopes, 1)]
    if level >= Level.LAPLACIAN:
        bends = [
            tf.stack([outer.gradient(e, x, unconnected_gradients=ZERO) for e in row], 1)
            for row in entries
        ]
        second = tf.stack(bends, 1)
        found += [tf.linalg.trace(second), second]
    return found[: level + 1]
