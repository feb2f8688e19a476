"""Which operations a Keras layer is made of."""

from collections.abc import Callable

import numpy as np

from hesscomp.curvature.networks.convolution import Convolution, DepthwiseConvolution
from hesscomp.curvature.networks.dense import Dense, Scale
from hesscomp.curvature.networks.elementwise import (
    Elementwise,
    MovingScale,
    Normalize,
    Softmax,
)
from hesscomp.curvature.networks.linear import (
    Concatenate,
    Linear,
    Product,
    WeightedSum,
)
from hesscomp.curvature.networks.operation import Operation, Unsupported
from hesscomp.curvature.networks.picking import Embedding, MaxPooling
from hesscomp.curvature.tensorflow import keras, tf

ELEMENTWISE = {
    "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus",
    "softsign", "sparse_plus", "squareplus", "tanh", "tanh_shrink",
}  # fmt: skip

FUNCTIONS = tf.sin, tf.cos, tf.exp, keras.ops.sin, keras.ops.cos, keras.ops.exp

layers = keras.layers


def _activation(function: Callable | None) -> list[Operation]:
    name = getattr(function, "__name__", str(function))
    if function is None or name == "linear":
        return []
    if name == "softmax":
        return [Softmax()]
    known = name in ELEMENTWISE and function is keras.activations.get(name)
    if not known and not any(function is each for each in FUNCTIONS):
        raise Unsupported(f"the activation {name} has no layer-wise rule")
    return [Elementwise(function)]


def _needs(layer, condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(f"{layer.name} ({type(layer).__name__}) has {what}")


def _plain_kernel(layer):
    plain = getattr(layer, "lora_rank", None) is None and layer.quantization_mode is None
    _needs(layer, plain, "a quantised kernel or LoRA")


def _dense(layer, inputs):
    _plain_kernel(layer)
    return [Dense(layer._kernel, layer.bias), *_activation(layer.activation)]


def _space(layer, inputs, rule: Callable) -> list[Operation]:
    """Return `rule` for layers over two axes; over one axis a height of 1 goes before and after."""
    _needs(layer, layer.data_format == "channels_last", "channels first")
    rank = len(inputs[0].shape) - 2
    if rank == 2:
        return [rule(lambda pair: tuple(pair))]
    _needs(layer, rank == 1, f"{rank} axes of space")
    grow = Linear(lambda x: tf.expand_dims(x, 1), channelwise=True)
    drop = Linear(lambda x: tf.squeeze(x, 1), channelwise=True)
    return [grow, rule(lambda single: (1, *single)), drop]


def _convolution(layer, inputs):
    _plain_kernel(layer)
    _needs(layer, layer.groups == 1, "groups")
    before, padding = [], layer.padding
    if padding == "causal":  # of Conv1D: zeros before the first place, so that none sees later ones
        more = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
        zeros = Linear(lambda x: tf.pad(x, [[0, 0], [more, 0], [0, 0]]), channelwise=True)
        before, padding = [zeros], "valid"

    def rule(pair):
        options = pair(layer.strides), pair(layer.dilation_rate), padding
        return Convolution(layer._kernel, layer.bias, *options)

    return [*before, *_space(layer, inputs, rule), *_activation(layer.activation)]


def _depthwise(layer, inputs):
    _needs(layer, len(set(layer.strides)) == 1, "unequal strides")

    def rule(pair):
        strides = layer.strides[:1] * 2  # TensorFlow wants equal ones, also over a height of 1
        options = strides, pair(layer.dilation_rate), layer.padding
        return DepthwiseConvolution(layer.kernel, layer.bias, *options)

    return [*_space(layer, inputs, rule), *_activation(layer.activation)]


def _max_pooling(layer, inputs):
    def rule(pair):
        return MaxPooling(pair(layer.pool_size), pair(layer.strides), layer.padding)

    return _space(layer, inputs, rule)


def _global_max(layer, inputs):
    _needs(layer, not layer.keepdims, "kept axes")
    whole = inputs[0].shape[1:-1]
    drop = Linear(lambda x: tf.squeeze(x, list(range(1, x.shape.rank - 1))), channelwise=True)
    windows = _space(layer, inputs, lambda pair: MaxPooling(pair(whole), pair(whole), "valid"))
    return [*windows, drop]


def _channelwise(layer, inputs):
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    _needs(layer, last, "channels first")
    return [Linear(_called(layer), channelwise=True)]


def _upsampling(layer, inputs):
    _needs(layer, layer.interpolation == "nearest", f"interpolation {layer.interpolation}")
    return _channelwise(layer, inputs)


def _called(layer) -> Callable:
    def call(x):
        y = layer.call(x)
        return tf.cast(y, x.dtype) if y.dtype != x.dtype else y

    return call


def _layer_normalization(layer, inputs):
    axes = [axis % len(inputs[0].shape) for axis in np.atleast_1d(layer.axis)]
    last = axes == [len(inputs[0].shape) - 1] and not getattr(layer, "rms_scaling", False)
    _needs(layer, last, "an axis other than the last")
    return [Normalize(layer.epsilon), *_scale(layer, inputs)]


def _batch_normalization(layer, inputs):
    _needs(layer, layer.axis % len(inputs[0].shape) == len(inputs[0].shape) - 1, "another axis")
    moving = MovingScale(layer.moving_mean, layer.moving_variance, layer.epsilon)
    return [moving, *_scale(layer, inputs)]


def _scale(layer, inputs):
    if layer.gamma is None and layer.beta is None:
        return []
    ones = tf.ones(inputs[0].shape[-1:])
    return [Scale(ones if layer.gamma is None else layer.gamma, layer.beta)]


def _same_shapes(layer, inputs):
    _needs(layer, len({tuple(x.shape) for x in inputs}) == 1, "inputs of different shapes")


def _weighted_sum(layer, inputs):
    _same_shapes(layer, inputs)
    if isinstance(layer, layers.Subtract):
        return [WeightedSum([1.0, -1.0])]
    weight = 1 / len(inputs) if isinstance(layer, layers.Average) else 1.0
    return [WeightedSum([weight] * len(inputs))]


def _product(layer, inputs):
    _same_shapes(layer, inputs)
    _needs(layer, len(inputs) == 2, "more than two inputs")
    return [Product()]


def _embedding(layer, inputs):
    _plain_kernel(layer)
    _needs(layer, not layer.mask_zero, "a mask")
    _needs(layer, layer.input_dim <= 2**24, "more rows than float32 can count")
    return [Embedding(layer._embeddings)]


def _softmax(layer, inputs):
    _needs(layer, layer.axis == -1, "an axis other than the last")
    return [Softmax()]


def _rescaling(layer, inputs):
    _needs(layer, np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0, "arrays of scales")

    def rescale(x):  # as Keras has it: tf.cast rounds numbers of Python to float32
        return x * tf.cast(layer.scale, x.dtype) + tf.cast(layer.offset, x.dtype)

    return [Elementwise(rescale)]


RULES: dict[type, Callable] = {
    getattr(layers, name): rule
    for names, rule in (
        ("Dense", _dense),
        ("Conv1D Conv2D", _convolution),
        ("DepthwiseConv1D DepthwiseConv2D", _depthwise),
        ("MaxPooling1D MaxPooling2D", _max_pooling),
        ("GlobalMaxPooling1D GlobalMaxPooling2D", _global_max),
        ("AveragePooling1D AveragePooling2D UpSampling1D", _channelwise),
        ("GlobalAveragePooling1D GlobalAveragePooling2D", _channelwise),
        ("ZeroPadding1D ZeroPadding2D Cropping1D Cropping2D", _channelwise),
        ("UpSampling2D", _upsampling),
        ("Flatten Reshape Permute", lambda layer, inputs: [Linear(_called(layer))]),
        ("Activation", lambda layer, inputs: _activation(layer.activation)),
        ("ReLU LeakyReLU ELU", lambda layer, inputs: [Elementwise(layer.call)]),
        ("Softmax", _softmax),
        ("Rescaling", _rescaling),
        ("LayerNormalization", _layer_normalization),
        ("BatchNormalization", _batch_normalization),
        ("Add Subtract Average", _weighted_sum),
        ("Multiply", _product),
        ("Concatenate", lambda layer, inputs: [Concatenate(layer.axis, len(inputs[0].shape))]),
        ("Embedding", _embedding),
        # Nothing, in inference:
        ("Dropout SpatialDropout1D SpatialDropout2D AlphaDropout", lambda layer, inputs: []),
        ("GaussianDropout GaussianNoise Identity", lambda layer, inputs: []),
    )
    for name in names.split()
}


def operations(layer, inputs: list) -> list[Operation]:
    """Return the operations of a layer in order, if any; the first of them takes all its inputs.

    `inputs` are symbolic, for their shapes. Raises Unsupported if the layer, or an option of it,
    has no rule.
    """
    rule = RULES.get(type(layer))
    if rule is None:
        raise Unsupported(f"{layer.name} ({type(layer).__name__}) has no layer-wise rule")
    return rule(layer, inputs)
