"""Which operations a Keras layer is made of."""

from collections.abc import Callable

import numpy as np

from hesscomp.curvature.networks.convolution import Convolution, DepthwiseConvolution
from hesscomp.curvature.networks.dense import Dense
from hesscomp.curvature.networks.elementwise import (
    Elementwise,
    MovingScale,
    Normalize,
    Scale,
    Softmax,
)
from hesscomp.curvature.networks.embedding import Embedding
from hesscomp.curvature.networks.linear import (
    Concatenate,
    Identity,
    Linear,
    Product,
    WeightedSum,
)
from hesscomp.curvature.networks.operation import Operation, Unsupported
from hesscomp.curvature.networks.pooling import GlobalMax, MaxPooling
from hesscomp.curvature.tensorflow import keras, tf

ELEMENTWISE = {
    "celu", "elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "hard_tanh", "leaky_relu",
    "log_sigmoid", "mish", "relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus",
    "softsign", "sparse_plus", "squareplus", "tanh", "tanh_shrink",
}  # fmt: skip

layers = keras.layers


def operations(layer, inputs: list) -> list[Operation]:
    """Return the operations of a layer in order; the first of them takes all its inputs.

    `inputs` are the layer's symbolic inputs, for their shapes.

    Raises
    ------
    Unsupported
        If the layer, or an option of it, has no rule.
    """
    for kind, rule in RULES.items():
        if type(layer) is kind:
            return rule(layer, inputs)
    raise Unsupported(f"{layer.name} ({type(layer).__name__}) has no layer-wise rule")


def _activation(function: Callable | None) -> list[Operation]:
    name = getattr(function, "__name__", str(function))
    if name in ("linear", "None"):
        return []
    if name == "softmax":
        return [Softmax()]
    if name not in ELEMENTWISE or function is not keras.activations.get(name):
        raise Unsupported(f"the activation {name} has no layer-wise rule")
    return [Elementwise(function)]


def _needs(layer, condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(f"{layer.name} ({type(layer).__name__}) has {what}")


def _no_lora(layer):
    plain = getattr(layer, "lora_rank", None) is None and layer.quantization_mode is None
    _needs(layer, plain, "a quantised kernel or LoRA")


def _dense(layer, inputs):
    _no_lora(layer)
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
    _no_lora(layer)
    _needs(layer, layer.groups == 1, "groups")
    return _convolved(layer, inputs, Convolution)


def _convolved(layer, inputs, kind):
    kernel = layer._kernel if kind is Convolution else layer.kernel
    causal = layer.padding == "causal"  # along the one axis of Conv1D

    def rule(pair):
        strides, padding = pair(layer.strides), "valid" if causal else layer.padding
        if kind is DepthwiseConvolution:  # TensorFlow wants equal ones, also over a height of 1
            strides = (strides[1], strides[1])
        return kind(kernel, layer.bias, strides, pair(layer.dilation_rate), padding)

    before = [_past(layer)] if causal else []
    return [*before, *_space(layer, inputs, rule), *_activation(layer.activation)]


def _past(layer) -> Operation:
    """Return zeros before the first place, so that no place sees later ones."""
    more = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    return Linear(lambda x: tf.pad(x, [[0, 0], [more, 0], [0, 0]]), channelwise=True)


def _depthwise(layer, inputs):
    _needs(layer, len(set(layer.strides)) == 1, "unequal strides")
    return _convolved(layer, inputs, DepthwiseConvolution)


def _max_pooling(layer, inputs):
    return _space(
        layer,
        inputs,
        lambda pair: MaxPooling(pair(layer.pool_size), pair(layer.strides), layer.padding),
    )


def _global_max(layer, inputs):
    _needs(layer, layer.data_format == "channels_last" and not layer.keepdims, "kept axes")
    return [GlobalMax()]


def _channelwise(layer, inputs):
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    _needs(layer, last, "channels first")
    return [Linear(_called(layer), channelwise=True)]


def _upsampling(layer, inputs):
    _needs(layer, layer.interpolation == "nearest", f"interpolation {layer.interpolation}")
    return _channelwise(layer, inputs)


def _rearranged(layer, inputs):
    return [Linear(_called(layer), channelwise=False)]


def _called(layer) -> Callable:
    def call(x):
        y = layer.call(x)
        return tf.cast(y, x.dtype) if y.dtype != x.dtype else y

    return call


def _layer_normalization(layer, inputs):
    axes = [axis % len(inputs[0].shape) for axis in np.atleast_1d(layer.axis)]
    last = axes == [len(inputs[0].shape) - 1] and not getattr(layer, "rms_scaling", False)
    _needs(layer, last, "an axis other than the last")
    return [Normalize(layer.epsilon), Scale(layer.gamma, layer.beta)]


def _batch_normalization(layer, inputs):
    _needs(layer, layer.axis % len(inputs[0].shape) == len(inputs[0].shape) - 1, "another axis")
    return [
        MovingScale(layer.moving_mean, layer.moving_variance, layer.epsilon),
        Scale(layer.gamma, layer.beta),
    ]


def _concatenate(layer, inputs):
    return [Concatenate(layer.axis, len(inputs[0].shape))]


def _same_shapes(layer, inputs):
    _needs(layer, len({tuple(x.shape) for x in inputs}) == 1, "inputs of different shapes")
    return len(inputs)


def _sum(layer, inputs):
    return [WeightedSum([1.0] * _same_shapes(layer, inputs))]


def _average(layer, inputs):
    return [WeightedSum([1 / len(inputs)] * _same_shapes(layer, inputs))]


def _difference(layer, inputs):
    _same_shapes(layer, inputs)
    return [WeightedSum([1.0, -1.0])]


def _product(layer, inputs):
    _needs(layer, _same_shapes(layer, inputs) == 2, "more than two inputs")
    return [Product()]


def _embedding(layer, inputs):
    _no_lora(layer)
    _needs(layer, not layer.mask_zero, "a mask")
    _needs(layer, layer.input_dim <= 2**24, "more rows than float32 can count")
    return [Embedding(layer._embeddings)]


def _nothing(layer, inputs):
    return [Identity()]


RULES = {
    layers.Dense: _dense,
    layers.Conv1D: _convolution,
    layers.Conv2D: _convolution,
    layers.DepthwiseConv1D: _depthwise,
    layers.DepthwiseConv2D: _depthwise,
    layers.MaxPooling1D: _max_pooling,
    layers.MaxPooling2D: _max_pooling,
    layers.AveragePooling1D: _channelwise,
    layers.AveragePooling2D: _channelwise,
    layers.GlobalAveragePooling1D: _channelwise,
    layers.GlobalAveragePooling2D: _channelwise,
    layers.GlobalMaxPooling1D: _global_max,
    layers.GlobalMaxPooling2D: _global_max,
    layers.ZeroPadding1D: _channelwise,
    layers.ZeroPadding2D: _channelwise,
    layers.Cropping1D: _channelwise,
    layers.Cropping2D: _channelwise,
    layers.UpSampling1D: _channelwise,
    layers.UpSampling2D: _upsampling,
    layers.Flatten: _rearranged,
    layers.Reshape: _rearranged,
    layers.Permute: _rearranged,
    layers.Activation: lambda layer, inputs: _activation(layer.activation) or [Identity()],
    layers.ReLU: lambda layer, inputs: [Elementwise(layer.call)],
    layers.LeakyReLU: lambda layer, inputs: [Elementwise(layer.call)],
    layers.ELU: lambda layer, inputs: [Elementwise(layer.call)],
    layers.Softmax: lambda layer, inputs: _softmax(layer),
    layers.Rescaling: lambda layer, inputs: _rescaling(layer),
    layers.LayerNormalization: _layer_normalization,
    layers.BatchNormalization: _batch_normalization,
    layers.Add: _sum,
    layers.Subtract: _difference,
    layers.Average: _average,
    layers.Multiply: _product,
    layers.Concatenate: _concatenate,
    layers.Embedding: _embedding,
    layers.Dropout: _nothing,
    layers.SpatialDropout1D: _nothing,
    layers.SpatialDropout2D: _nothing,
    layers.AlphaDropout: _nothing,
    layers.GaussianDropout: _nothing,
    layers.GaussianNoise: _nothing,
    layers.Identity: _nothing,
}


def _softmax(layer):
    _needs(layer, layer.axis == -1, "an axis other than the last")
    return [Softmax()]


def _rescaling(layer):
    _needs(layer, np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0, "arrays of scales")

    def rescale(x):  # as Keras has it: tf.cast rounds numbers of Python to float32
        return x * tf.cast(layer.scale, x.dtype) + tf.cast(layer.offset, x.dtype)

    return [Elementwise(rescale)]
