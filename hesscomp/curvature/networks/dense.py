"""Layers with a kernel and a bias, y = x * W + b: what they share, and those without space."""

from abc import abstractmethod

from hesscomp.curvature.networks.operation import (
    At,
    Operation,
    Terms,
    Unsupported,
    add,
    beside,
    count,
    flatten_rows,
    fold,
    leading_sum,
    stack,
    unfold,
    unstack,
)
from hesscomp.curvature.tensorflow import tf

AT_ONCE = 2**22  # numbers of rows' inputs, gradients and norms that are held at once


class Kernel(Operation):
    """y = x * W + b for a product that is linear in x and in W.

    A subclass writes the product and its two transposes. Columns of tangents pass through the
    kernel, which they share, as more rows; with k tangents of the kernel they are more features.
    """

    linear = True

    def __init__(self, kernel, bias=None):
        self.variables = (kernel,) if bias is None else (kernel, bias)

    @abstractmethod
    def _product(self, x, W):
        """Return x * W."""

    @abstractmethod
    def _by_input(self, x, W, delta):
        """Return the gradient with respect to x, of which only the shape matters."""

    @abstractmethod
    def _by_kernel(self, x, W, delta):
        """Return the gradient with respect to W, of which only the shape matters."""

    def _product_of_columns(self, tx, W, k):
        return self._product(tx, W)

    def _product_with_kernels(self, x, tW, k):
        return unfold(self._product(x, fold(tW)), k)

    def _by_input_of_columns(self, x, W, t_delta, k):
        return self._by_input(x, W, t_delta)

    def _by_input_with_kernels(self, x, tW, delta, k):
        return unfold(self._by_input(x, stack(tW), delta), k)

    def _by_kernel_of_deltas(self, x, W, t_delta, k):
        return unfold(self._by_kernel(x, W, fold(t_delta)), k)

    def _by_kernel_of_inputs(self, tx, W, delta, k):
        return unstack(self._by_kernel(fold(tx), W, delta), k)

    def forward(self, at):
        x, W, *bias = at.inputs + at.parameters
        y = self._product(x, W)
        return y + self._of_bias(bias[0]) if bias else y

    def _of_bias(self, b):
        """Return what a bias, or its tangents, adds to the output; it broadcasts to that."""
        return b

    def _with_bias(self, delta):
        """Return the places of the output, from all, that the bias is added at."""
        return delta

    def _bias_inputs(self, a):
        """Return what the bias is multiplied by at each place of an input: (..., 1)."""
        return tf.ones_like(a[..., :1])

    def _patches(self, x, W):
        """Return what the kernel, as a matrix, is multiplied by at each place of the output."""
        raise NotImplementedError

    def row_squares(self, at, delta):
        """A row's gradient is a sum of outer products over the places where the kernel is applied.

        Its squared norm is the sum over pairs of places of the inner products of the inputs times
        those of the gradients (Rochette, Manoel and Tramel 2019); where there are more pairs than
        entries of the kernel, the gradient itself is the smaller array (Bu, Mao and Xu, "Scalable
        and efficient training of large convolutional neural networks with differential privacy",
        NeurIPS 2022).
        """
        (x,), (W, *_) = at.inputs, at.parameters
        places, outputs = delta.shape[1:-1].num_elements(), delta.shape[-1]
        if not self.outer or places is None:
            return super().row_squares(at, delta)
        inputs = W.shape[:-1].num_elements()
        by_pairs = places**2 <= inputs * outputs
        smaller = min(places**2, inputs * outputs)

        def squares(x, delta):
            a = tf.reshape(self._patches(x, W), [-1, places, inputs])
            d = tf.reshape(delta, [-1, places, outputs])
            if by_pairs:
                products = tf.matmul(a, a, transpose_b=True) * tf.matmul(d, d, transpose_b=True)
                return tf.reduce_sum(products, [1, 2])
            return tf.reduce_sum(tf.square(tf.matmul(a, d, transpose_a=True)), [1, 2])

        at_once = max(AT_ONCE // (places * (inputs + outputs) + smaller), 1)
        of_bias = over_places(self._with_bias(delta))
        found = [in_groups(squares, at_once, x, delta), tf.reduce_sum(tf.square(of_bias), 1)]
        return found[: len(self.variables)]

    def outer_factors(self, at, t_delta):
        x = self._patches(at.inputs[0], at.parameters[0])
        places = x.shape[1:-1].num_elements() or tf.reduce_prod(tf.shape(x)[1:-1])
        a = tf.reshape(x, [-1, places, x.shape[-1]])
        if len(self.variables) == 2:
            a = tf.concat([a, self._bias_inputs(a)], -1)
        k, outputs = t_delta.shape[-2] or count(t_delta), t_delta.shape[-1]
        return a, tf.reshape(t_delta, [-1, places, k, outputs])

    def tangent(self, at):
        (x,), (tx,), (W, *_), (tW, *tb) = at.inputs, at.t_inputs, at.parameters, at.t_parameters
        k = next(count(t) for t in (tx, *at.t_parameters) if t is not None)
        terms, tb = [], [None if t is None else self._of_bias(t) for t in tb]
        if tW is not None:
            terms.append(self._product_with_kernels(x, tW, k))
        if tx is not None:
            terms.append(self._product_of_columns(tx, W, k))
        if not terms:
            whole = tf.concat([tf.shape(at.output)[:-1], tf.shape(tb[0])[-2:]], 0)
            return tf.broadcast_to(tb[0], whole)
        return Terms.of(*terms, *tb)

    def pull(self, at, delta):
        return [self._by_input(at.inputs[0], at.parameters[0], delta)]

    def pull_tangent(self, at, delta, t_delta):
        (x,), (W, *_), (tW, *_) = at.inputs, at.parameters, at.t_parameters
        k, more = count(t_delta), None
        if delta is not None and tW is not None:
            more = self._by_input_with_kernels(x, tW, delta, k)
        return [Terms.of(self._by_input_of_columns(x, W, t_delta, k), more)]

    def gradient(self, at, delta):
        slope = self._by_kernel(at.inputs[0], at.parameters[0], delta)
        return [slope, leading_sum(self._with_bias(delta), 1)][: len(self.variables)]

    def gradient_tangent(self, at, delta, t_delta):
        (x,), (tx,), (W, *_) = at.inputs, at.t_inputs, at.parameters
        k, more = count(t_delta), None
        if delta is not None and tx is not None:
            more = self._by_kernel_of_inputs(tx, W, delta, k)
        slope = add(self._by_kernel_of_deltas(x, W, t_delta, k), more)
        return [slope, leading_sum(self._with_bias(t_delta), 2)][: len(self.variables)]


class Dense(Kernel):
    """y = x W + b on the last axis.

    Six products of B rows, d inputs and h outputs for each column of a Hessian product; two in the
    first layer, whose input has no tangent and needs no gradient.
    """

    outer = True

    def _patches(self, x, W):
        return x

    def _product(self, x, W):
        return _rows_like(tf.matmul(flatten_rows(x), W), x)

    def _by_input(self, x, W, delta):
        return _rows_like(tf.matmul(flatten_rows(delta), W, transpose_b=True), delta)

    def _by_kernel(self, x, W, delta):
        return tf.matmul(flatten_rows(x), flatten_rows(delta), transpose_a=True)

    def squares(self, at, delta):
        """A row's gradient is an outer product, and so are its squares (Martens 2010)."""
        (x,) = at.inputs
        _check_once(x)
        return self.gradient(At([tf.square(x)], at.parameters), tf.square(delta))

    def row_squares(self, at, delta):
        """The norm of an outer product is the product of the norms (Goodfellow 2015)."""
        (x,) = at.inputs
        if x.shape.rank != 2:
            return super().row_squares(at, delta)
        sizes = tf.reduce_sum(tf.square(delta), -1)
        return [tf.reduce_sum(tf.square(x), -1) * sizes, sizes][: len(self.variables)]


class Scale(Kernel):
    """y = x gamma + beta, each feature of the last axis by a number of its own."""

    def _product(self, x, W):
        return x * W

    def _by_input(self, x, W, delta):
        return delta * W

    def _by_kernel(self, x, W, delta):
        return leading_sum(x * delta, 1)

    def row_squares(self, at, delta):
        """A row's gradient is a sum over places of products, one for each feature."""
        (x,) = at.inputs
        slopes = over_places(x * delta), over_places(self._with_bias(delta))
        return [tf.reduce_sum(tf.square(each), 1) for each in slopes][: len(self.variables)]

    def _product_with_kernels(self, x, tW, k):
        return beside(x) * tW

    def _by_input_with_kernels(self, x, tW, delta, k):
        return beside(delta) * tW

    def _by_kernel_of_deltas(self, x, W, t_delta, k):
        return leading_sum(beside(x) * t_delta, 2)

    def _by_kernel_of_inputs(self, tx, W, delta, k):
        return leading_sum(tx * beside(delta), 2)


def over_places(values: tf.Tensor) -> tf.Tensor:
    """Return the sum over all axes but the rows' and the features': (B, C)."""
    return tf.reduce_sum(values, list(range(1, values.shape.rank - 1)))


def in_groups(function, size: int, *arrays: tf.Tensor) -> tf.Tensor:
    """Return ``function(*arrays)``, a number for each row, computed of `size` rows at a time."""
    rows = tf.shape(arrays[0])[0]
    groups = (rows + size - 1) // size
    padded = [
        tf.reshape(
            tf.pad(array, [[0, groups * size - rows], *[[0, 0]] * (array.shape.rank - 1)]),
            tf.concat([[groups, size], tf.shape(array)[1:]], 0),
        )
        for array in arrays
    ]
    for array, pad in zip(arrays, padded, strict=True):
        pad.set_shape([None, size, *array.shape[1:]])
    spec = tf.TensorSpec([size], arrays[0].dtype)
    found = tf.map_fn(
        lambda part: function(*part), padded, parallel_iterations=1, fn_output_signature=spec
    )
    return tf.reshape(found, [-1])[:rows]


def _check_once(x: tf.Tensor) -> None:
    if x.shape.rank != 2:
        raise Unsupported("a dense layer that a row passes more than once")


def _rows_like(flat: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Return the rows of a matrix as (..., features), with the leading axes of another array."""
    places = like.shape[1:-1]
    if places.is_fully_defined() and flat.shape[-1] is not None:  # much less to trace
        return tf.reshape(flat, [-1, *places, flat.shape[-1]])
    return tf.reshape(flat, tf.concat([tf.shape(like)[:-1], tf.shape(flat)[-1:]], 0))
