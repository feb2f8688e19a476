"""A shard's part of a curvature matrix: what a problem gives and an operator sums over ranks."""

from abc import ABC, abstractmethod

from hesscomp.curvature.tensorflow import tf
from hesscomp.errors import InputError


class ShardCurvature(ABC):
    """A shard's curvature at a point: sums over its rows, not divided by m, without the ridge.

    A subclass has to write `product`. The other methods serve the reproducible mode (those by row
    block) and save work.

    Attributes
    ----------
    assembles : bool
        Whether `dense` and `dense_by_row_block` give the whole matrix; else it is made of products.
    """

    assembles = False

    @abstractmethod
    def product(self, V: tf.Tensor) -> tf.Tensor:
        """Return the matrix times an (n, k) block, in the block's type; local."""

    def product_by_row_block(self, V: tf.Tensor) -> tf.Tensor:
        """Return `product` for each of the shard's fixed row blocks alone, (blocks, n, k)."""
        raise InputError(
            f"{type(self).__name__} has no reproducible mode; run without it, or write the method "
            "product_by_row_block"
        )

    def dense(self) -> tf.Tensor:
        """Return the (n, n) matrix; where `assembles`."""
        raise NotImplementedError

    def dense_by_row_block(self) -> tf.Tensor:
        """Return `dense` for each of the shard's fixed row blocks alone, (blocks, n, n)."""
        raise NotImplementedError

    def columns_at_once(self, columns: int, itemsize: int) -> int:
        """Return how many of a block's columns a product should take at once."""
        return columns

    def narrowed(self, chosen: tuple[int, ...]) -> "ShardCurvature | None":
        """Return the matrix of the parameter blocks of these indices alone.

        None where its products would cost as much as whole ones.
        """
        return None
