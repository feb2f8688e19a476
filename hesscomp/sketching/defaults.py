"""How wide blocks of columns are."""

BLOCKS = 16, 32  # fewest and most columns of a Krylov block


def block_size(sketch: int) -> int:
    """Columns of a Krylov block for rank + oversample = `sketch`: a quarter of it, within 16 to 32.

    Wide enough that products run at the matrix-product rate, no wider: narrow blocks reach higher
    powers of H with the same columns.
    """
    return min(sketch, max(BLOCKS[0], min(sketch // 4, BLOCKS[1])))
