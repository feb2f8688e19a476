"""One operation of a network: what it does to values, to tangents, and in reverse to both.

Layout: values are (B, ..., C); k tangents lie beside the features, (B, ..., k, C), and so do those
of parameters, (..., k, last). So x @ RW is one (B x d) @ (d x k h) product, and nothing is
transposed between layers. None stands for a tangent, or a gradient, that is zero.

The names follow Pearlmutter, "Fast exact multiplication by the Hessian" (Neural Computation 6,
1994): the R-operator takes the derivative along the tangent of every step of the forward and of
the reverse pass. With `delta` = None the same methods give the Gauss-Newton matrix's J^T.

Operations write down all gradients, wanted or not: those that nobody reads are cut off when
TensorFlow compiles the whole product.
"""

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property, reduce

from hesscomp.curvature.tensorflow import fused, tf

Tensors = list[tf.Tensor | None]


class Terms:
    """A tangent as terms that are still to be added: one of its shape, others that broadcast to it.

    Whoever needs it as an array takes `total`; what is compiled to one pass over memory (`fused`)
    takes the terms, and adds them on its way.
    """

    def __init__(self, *parts: tf.Tensor):
        self.parts = parts

    @classmethod
    def of(cls, *terms: "Terms | tf.Tensor | None") -> "Terms | None":
        """Return all terms that are not zero; None if all are."""
        lists = [term.parts if isinstance(term, Terms) else (term,) for term in terms]
        parts = [part for each in lists for part in each if part is not None]
        return cls(*parts) if parts else None

    @cached_property
    def total(self) -> tf.Tensor:
        return self.parts[0] if len(self.parts) == 1 else _added(self.parts)


def added(terms) -> tf.Tensor:
    """Return the terms' sum, broadcast to the largest."""
    return reduce(operator.add, terms)


_added = fused(added)


@dataclass
class At:
    """An operation at one point, and along k tangents."""

    inputs: Tensors
    parameters: Tensors
    output: tf.Tensor | None = None
    memo: dict = field(default_factory=dict)  # what the operation computed once for all

    def __post_init__(self) -> None:
        # The tangents are zero until the engine writes them.
        self.t_terms: list[Terms | None] = [None] * len(self.inputs)
        self.t_parameters: Tensors = [None] * len(self.parameters)

    @property
    def t_inputs(self) -> Tensors:
        """The inputs' tangents as arrays."""
        return [None if t is None else t.total for t in self.t_terms]


class Operation(ABC):
    """An operation without parameters and with one input, unless a subclass says otherwise."""

    variables: tuple = ()  # Keras', its parameters in order
    linear = False  # or affine in its inputs
    fuses = False  # `pull_tangent` takes `t_delta` as a `Terms`
    outer = False  # whether `outer_factors` gives a row's gradients as sums of outer products
    whole = False  # inputs are whole numbers by nature, so that integers stay integers

    @abstractmethod
    def forward(self, at: At) -> tf.Tensor:
        """Return the output."""

    @abstractmethod
    def tangent(self, at: At) -> Terms | tf.Tensor | None:
        """Return the output's derivative along the tangents of inputs and parameters.

        Asked for only where one of these is not zero.
        """

    @abstractmethod
    def pull(self, at: At, delta: tf.Tensor) -> Tensors:
        """Return the gradient with respect to each input, from that with respect to the output."""

    @abstractmethod
    def pull_tangent(self, at: At, delta: tf.Tensor | None, t_delta: tf.Tensor) -> list:
        """Return the derivative of `pull` along the tangents: each a tensor, a `Terms` or None.

        As for `tangent`, one of them is not zero where there is a `delta`.
        """

    def gradient(self, at: At, delta: tf.Tensor) -> Tensors:
        """Return the gradient with respect to each parameter."""
        return []

    def gradient_tangent(self, at: At, delta: tf.Tensor | None, t_delta: tf.Tensor) -> Tensors:
        """Return the derivative of `gradient` along the tangents."""
        return []

    def squares(self, at: At, delta: tf.Tensor) -> Tensors:
        """Return the sum over rows of each row's squared gradient with respect to each parameter.

        Unsupported where only row by row is possible.
        """
        if self.variables:
            raise Unsupported(f"{type(self).__name__} has no squared gradients")
        return []

    def row_squares(self, at: At, delta: tf.Tensor) -> Tensors:
        """Return the squared norm of each row's gradient with respect to each parameter: (B,) each.

        Unsupported where only row by row is possible.
        """
        if self.variables:
            raise Unsupported(f"{type(self).__name__} has no norms of gradients")
        return []

    def outer_factors(self, at: At, t_delta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return a (B, T, inputs) and d (B, T, k, outputs) of the gradients sum_t a_t d_t^T.

        Where the operation is `outer`: of each row and column of `t_delta`, by all parameters in
        order, row by row of the matrix.
        """
        raise NotImplementedError


class Unsupported(Exception):
    """Why a network has no layer-wise engine."""


def add(*terms: tf.Tensor | None) -> tf.Tensor | None:
    """Return the sum of the terms that are not zero."""
    present = [term for term in terms if term is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else tf.add_n(present)


def beside(value: tf.Tensor) -> tf.Tensor:
    """Return a value's (..., C) as (..., 1, C), to meet k tangents."""
    return tf.expand_dims(value, -2)


def count(tangent: tf.Tensor):
    """Return k of a tangent (..., k, C), known only at run time: one trace serves all."""
    return tf.shape(tangent)[-2]


def fold(tangent: tf.Tensor) -> tf.Tensor:
    """Return (..., k, C) as (..., k C): columns as more features."""
    shape = tf.shape(tangent)
    return tf.reshape(tangent, tf.concat([shape[:-2], [shape[-2] * shape[-1]]], 0))


def unfold(folded: tf.Tensor, k) -> tf.Tensor:
    """Return the inverse of `fold`."""
    shape = tf.shape(folded)
    return tf.reshape(folded, tf.concat([shape[:-1], [k, shape[-1] // k]], 0))


def stack(tangent: tf.Tensor) -> tf.Tensor:
    """Return the tangent of a kernel, (..., C, k, last), as (..., k C, last): for more inputs."""
    shape = tf.shape(tangent)
    return tf.reshape(_swap(tangent), tf.concat([shape[:-3], [-1], shape[-1:]], 0))


def unstack(stacked: tf.Tensor, k) -> tf.Tensor:
    """Return the inverse of `stack`."""
    shape = tf.shape(stacked)
    split = tf.concat([shape[:-2], [k, shape[-2] // k], shape[-1:]], 0)
    return _swap(tf.reshape(stacked, split))


def _swap(value: tf.Tensor) -> tf.Tensor:
    """Return (..., a, b, last) as (..., b, a, last)."""
    rank = value.shape.rank
    return tf.transpose(value, [*range(rank - 3), rank - 2, rank - 3, rank - 1])


def flatten_rows(value: tf.Tensor) -> tf.Tensor:
    """Return (..., C) as a matrix with C columns."""
    width = value.shape[-1] or tf.shape(value)[-1]  # known as a rule, and then less to trace
    return value if value.shape.rank == 2 else tf.reshape(value, [-1, width])


def leading_sum(value: tf.Tensor, kept: int) -> tf.Tensor:
    """Return the sum over all but the last `kept` axes, by a product with ones (3 times faster)."""
    shape = tf.shape(value)[-kept:]
    rows = tf.reshape(value, [-1, tf.reduce_prod(shape)])
    ones = tf.ones([1, tf.shape(rows)[0]], value.dtype)
    return tf.reshape(tf.matmul(ones, rows), shape)
