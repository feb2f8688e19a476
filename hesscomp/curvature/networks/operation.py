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

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from hesscomp.curvature.tensorflow import tf

Tensors = list[tf.Tensor | None]


@dataclass
class At:
    """An operation at one point, and along k tangents.

    Attributes
    ----------
    memo : dict
        What the operation computed once for all.
    """

    inputs: Tensors
    parameters: Tensors
    output: tf.Tensor | None = None
    t_inputs: Tensors = field(default_factory=list)
    t_parameters: Tensors = field(default_factory=list)
    memo: dict = field(default_factory=dict)


class Operation(ABC):
    """An operation without parameters and with one input, unless a subclass says otherwise.

    Attributes
    ----------
    variables : tuple of Keras variables
        Its parameters, in order.
    linear : bool
        Whether it is linear (or affine) in its inputs.
    """

    variables: tuple = ()
    linear = False

    @abstractmethod
    def forward(self, at: At) -> tf.Tensor:
        """The output."""

    @abstractmethod
    def tangent(self, at: At) -> tf.Tensor | None:
        """The output's derivative along the tangents of inputs and parameters."""

    @abstractmethod
    def pull(self, at: At, delta: tf.Tensor) -> Tensors:
        """The gradient by each input, from the gradient by the output."""

    @abstractmethod
    def pull_tangent(self, at: At, delta: tf.Tensor | None, t_delta: tf.Tensor) -> Tensors:
        """The derivative of `pull` along the tangents."""

    def gradient(self, at: At, delta: tf.Tensor) -> Tensors:
        """The gradient by each parameter."""
        return []

    def gradient_tangent(self, at: At, delta: tf.Tensor | None, t_delta: tf.Tensor) -> Tensors:
        """The derivative of `gradient` along the tangents."""
        return []


class Unsupported(Exception):
    """Why a network has no layer-wise engine."""


def add(*terms: tf.Tensor | None) -> tf.Tensor | None:
    """The sum of the terms that are not zero."""
    present = [term for term in terms if term is not None]
    if not present:
        return None
    return present[0] if len(present) == 1 else tf.add_n(present)


def beside(value: tf.Tensor) -> tf.Tensor:
    """A value's (..., C) as (..., 1, C), to meet k tangents."""
    return tf.expand_dims(value, -2)


def count(tangent: tf.Tensor):
    """k of a tangent (..., k, C), known only at run time: one trace serves all."""
    return tf.shape(tangent)[-2]


def fold(tangent: tf.Tensor) -> tf.Tensor:
    """(..., k, C) as (..., k C): columns as more features."""
    shape = tf.shape(tangent)
    return tf.reshape(tangent, tf.concat([shape[:-2], [shape[-2] * shape[-1]]], 0))


def unfold(folded: tf.Tensor, k) -> tf.Tensor:
    """The inverse of `fold`."""
    shape = tf.shape(folded)
    return tf.reshape(folded, tf.concat([shape[:-1], [k, shape[-1] // k]], 0))


def flatten_rows(value: tf.Tensor) -> tf.Tensor:
    """(..., C) as a matrix with C columns."""
    return value if value.shape.rank == 2 else tf.reshape(value, [-1, tf.shape(value)[-1]])


def leading_sum(value: tf.Tensor, kept: int) -> tf.Tensor:
    """The sum over all but the last `kept` axes."""
    return tf.reduce_sum(value, list(range(value.shape.rank - kept)))
