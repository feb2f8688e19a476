"""How a model's output was made: from logits, or not.

Keras computes a cross-entropy from the logits where it can find them. Its activations leave the
logits on what they return, and TensorFlow's operations show what they were given. So
``loss(y, output)`` is there no function of the output's numbers alone, and its derivative by the
output misses what went through the logits. Here the same rule (`_get_logits` in
keras/src/backend/tensorflow/nn.py) finds the logits first.
"""

from dataclasses import dataclass

from hesscomp.curvature.tensorflow import keras, tf

ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid"}  # by TensorFlow's operation


@dataclass(frozen=True)
class Ending:
    """An output that was made from logits.

    Attributes
    ----------
    activation : str or None
        "softmax" (over the last axis) or "sigmoid"; None where it is neither, such as a softmax
        over another axis.
    marked : bool
        Whether Keras left the logits on the output. All of its cross-entropies then take them;
        otherwise only the one that belongs to the activation does.
    """

    activation: str | None
    marked: bool

    @classmethod
    def of(cls, output: tf.Tensor) -> "Ending | None":
        """Return the ending of a traced output; None where Keras finds no logits."""
        activation = ACTIVATIONS.get(output.op.type)
        marked = hasattr(output, "_keras_logits")
        return cls(activation, marked) if marked or activation else None

    @staticmethod
    def logits(output: tf.Tensor) -> tf.Tensor:
        """Return what a traced output with an ending was made from."""
        return output._keras_logits if hasattr(output, "_keras_logits") else output.op.inputs[0]

    def serves(self, link: str | None) -> bool:
        """Return whether Keras computes a loss with this `link` from these logits."""
        return link is not None and (self.marked or self.activation == link)

    def __str__(self) -> str:
        return self.activation or "an activation"


def activate(logits: tf.Tensor, activation: str) -> tf.Tensor:
    """Return the output of these logits, marked with them as Keras does."""
    return keras.activations.get(activation)(logits)
