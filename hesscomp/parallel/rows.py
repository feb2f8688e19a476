"""Which rows belong to which rank."""


def row_block(rows: int) -> int:
    """Number of rows in one fixed block of a data set of `rows` rows.

    A function of the data set alone, never of the number of ranks: fingerprints are hashed and
    reproducible sums are taken block by block. At least 128 blocks where there are that many
    rows, at most 1,024 rows a block.
    """
    return min(max(rows // 128, 1), 1024)


def row_range(rows: int, rank: int, size: int) -> tuple[int, int]:
    """First row and one past the last row of `rank`'s shard among `size` ranks.

    Contiguous runs of whole blocks (see `row_block`), as equal as blocks allow; ranks beyond the
    number of blocks hold no rows.

    >>> [row_range(3, r, 4) for r in range(4)]
    [(0, 0), (0, 1), (1, 2), (2, 3)]
    """
    block = row_block(rows)
    blocks = -(-rows // block)
    return min(blocks * rank // size * block, rows), min(blocks * (rank + 1) // size * block, rows)
