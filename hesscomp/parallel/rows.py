"""Which rows belong to which rank."""

from dataclasses import dataclass

from hesscomp.errors import InputError


def row_block(rows: int) -> int:
    """Return the number of rows in one fixed block of a data set of `rows` rows.

    A function of the data set alone, never of the number of ranks: fingerprints are hashed and
    reproducible sums are taken block by block. At least 60 blocks (which share out evenly on 1 to 6
    ranks) where there are that many rows, at most 1,024 rows a block.
    """
    return min(max(rows // 60, 1), 1024)


def row_range(rows: int, rank: int, size: int) -> tuple[int, int]:
    """Return the first row and one past the last row of `rank`'s shard among `size` ranks.

    Contiguous runs of whole blocks (see `row_block`), as equal as blocks allow; ranks beyond the
    number of blocks hold no rows.

    >>> [row_range(3, r, 4) for r in range(4)]
    [(0, 0), (0, 1), (1, 2), (2, 3)]
    """
    block = row_block(rows)
    blocks = -(-rows // block)
    return min(blocks * rank // size * block, rows), min(blocks * (rank + 1) // size * block, rows)


def row_ranges(rows: int, size: int) -> list[tuple[int, int]]:
    """Return the `row_range` of every rank."""
    return [row_range(rows, rank, size) for rank in range(size)]


@dataclass(frozen=True)
class RowBlocks:
    """The fixed blocks of a data set's rows, and which of them a shard holds."""

    rows: int  # of one block (`row_block`); the last may be shorter
    count: int  # of blocks on all ranks
    local: tuple[slice, ...]  # this shard's rows, block by block

    @classmethod
    def of_shard(cls, start: int, held: int, total: int) -> "RowBlocks":
        """Return the blocks of rows ``start:start + held`` of `total`; InputError for cut ones."""
        rows = row_block(total)
        if held and (start % rows or ((start + held) % rows and start + held < total)):
            raise InputError(
                f"reproducible mode needs shards of whole blocks of {rows} rows, and rows "
                f"{start} to {start + held} of {total} are not; cut the data as "
                "parallel.rows.row_range does"
            )
        local = (slice(at, min(at + rows, held)) for at in range(0, held, rows))
        return cls(rows, -(-total // rows), tuple(local))
