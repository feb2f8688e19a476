"""What users hand over as data, brought into the forms that problems take."""

from typing import Any

import numpy as np

from hesscomp.curvature.tensorflow import keras, tf
from hesscomp.errors import InputError, reason
from hesscomp.options import format_bytes
from hesscomp.parallel.resources import SHARE, available_bytes
from hesscomp.parallel.world import World

BATCH = 1024  # rows of a data set of single rows that are read at once


def as_arrays(data, world: World, row_ranks: tuple[int, ...] | None = None):
    """Return what is no tf.data.Dataset as it is, and such a data set as a pair (X, y). Local.

    X and y are arrays, or nested like the data set's elements. `row_ranks` are the numbers of axes
    of one row of each of the model's inputs, where they are known: they tell batches from rows.

    Raises
    ------
    InputError
        For an infinite data set, one of other elements than pairs, of rows of different shapes, or
        of more than half of this rank's share of the node's free memory.
    """
    if not isinstance(data, tf.data.Dataset):
        return data
    spec = data.element_spec
    if isinstance(spec, tuple) and len(spec) == 3:
        raise InputError(
            "the tf.data.Dataset has three parts, and hesscomp takes no sample weights; give pairs "
            "(x, y), and repeat rows that count more than once"
        )
    if not (isinstance(spec, tuple) and len(spec) == 2):
        raise InputError(
            "the elements of a tf.data.Dataset must be pairs (x, y); make them so with its map"
        )
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError(
            "the tf.data.Dataset never ends (repeat); leave out repeat, or take a number of "
            "elements with its take(count)"
        )
    leaves = keras.tree.flatten(spec)
    if not all(type(leaf) is tf.TensorSpec for leaf in leaves):
        raise InputError("the tf.data.Dataset holds ragged or sparse tensors; make them dense")
    if not _batched(spec, row_ranks):
        data = data.batch(BATCH)
        leaves = keras.tree.flatten(data.element_spec)
    limit, held = available_bytes() * SHARE / 2 / world.ranks_here(), 0
    parts: list[list[np.ndarray]] = [[] for _ in leaves]
    try:
        for element in data.as_numpy_iterator():
            for part, piece in zip(parts, keras.tree.flatten(element), strict=True):
                part.append(piece)
                held += piece.nbytes
            if held > limit:
                raise InputError(
                    f"the tf.data.Dataset holds more than the {format_bytes(limit)} that this rank "
                    "may take for it, and hesscomp keeps the rows in memory; give each rank its "
                    "own part (its shard(world.size, world.rank)) on more ranks, or fewer rows "
                    "(its take)"
                )
        arrays = [
            np.concatenate(part) if part else _nothing(leaf)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
    except (ValueError, tf.errors.OpError) as error:
        raise InputError(
            f"the rows of the tf.data.Dataset cannot be put together ({reason(error)}); all need "
            "one shape"
        ) from error
    return keras.tree.pack_sequence_as(spec, arrays)


def _batched(spec, row_ranks: tuple[int, ...] | None) -> bool:
    """Return whether a data set's elements are batches of rows, and not single rows.

    Where nothing tells, they are: Keras takes nothing else.
    """
    inputs, targets = map(keras.tree.flatten, spec)
    shapes = [leaf.shape for leaf in (*inputs, *targets)]
    if any(shape.rank == 0 for shape in shapes):
        return False
    if row_ranks is not None and len(row_ranks) == len(inputs):
        ranks = [leaf.shape.rank for leaf in inputs]
        if ranks == [rank + 1 for rank in row_ranks]:
            return True
        if ranks == list(row_ranks):
            return False
    return len({shape[0] for shape in shapes if shape.rank and shape[0] is not None}) <= 1


def _nothing(leaf: tf.TensorSpec) -> np.ndarray:
    """Return the rows of a data set that has none."""
    shape = [0, *(extent or 0 for extent in leaf.shape[1:])]
    return np.empty(shape, leaf.dtype.as_numpy_dtype)


def row_ranks(model) -> tuple[int, ...] | None:
    """Return the numbers of axes of one row of each of a model's inputs; None if not known."""
    inputs: list[Any] | None = getattr(model, "inputs", None)
    return tuple(len(each.shape) - 1 for each in inputs) if inputs else None
