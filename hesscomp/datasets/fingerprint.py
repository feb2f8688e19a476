"""A hash of sharded data that does not depend on how they are sharded.

SHA-256 over a header and the SHA-256 of each fixed row block (`row_block`), in order. A dense
block is the little-endian bytes of its rows in their own precision, then its targets (float64); a
sparse one is its row lengths (int64), column indices (int64), values (float64) and targets. So the
same numbers stored densely and sparsely have two fingerprints. Rows that are their own targets are
hashed once, and the header says so; weights and offsets are hashed after the targets where there
are any, and the header names them. Rows of more axes are hashed as vectors: their shape is not.
"""

import hashlib

import numpy as np
import scipy.sparse

from hesscomp.datasets.validation import row_size
from hesscomp.parallel.rows import row_block
from hesscomp.parallel.world import World


def fingerprint(shard, world: World) -> str:
    """Compute the hash of all ranks' rows, "sha256:...". Collective.

    Shards may begin anywhere: the rows before a rank's first block boundary travel to the rank on
    which that block begins.
    """
    rows, block = shard.X.shape[0], row_block(shard.total)
    sizes = world.gather(rows)
    edges = np.concatenate([[0], np.cumsum(sizes)])
    head = min(-shard.start % block, rows)  # rows that belong to a block begun elsewhere
    outgoing: list = [None] * world.size
    if head:
        begins = shard.start - shard.start % block
        owner = int(np.searchsorted(edges, begins, side="right")) - 1
        outgoing[owner] = _bytes(shard, 0, head)
    incoming = [piece for piece in world.exchange(outgoing) if piece is not None]
    digests = []
    for first in range(head, rows, block):
        pieces = [_bytes(shard, first, min(first + block, rows))]
        if first + block > rows:  # my last block: what others hold of it follows in rank order
            pieces += incoming
        digest = hashlib.sha256()
        for part in zip(*pieces, strict=True):
            for piece in part:
                digest.update(piece)
        digests.append(digest.digest())
    kind = "sparse" if scipy.sparse.issparse(shard.X) else shard.X.dtype.name
    itself = " to itself" if shard.y is shard.X else ""
    itself += "".join(f" with {name}" for name, _ in _columns(shard))
    whole = hashlib.sha256(f"{kind} {shard.total} x {row_size(shard.X)}{itself}\n".encode())
    for part in world.gather(b"".join(digests)):
        whole.update(part)
    return f"sha256:{whole.hexdigest()}"


def _bytes(shard, first: int, last: int) -> tuple[bytes, ...]:
    X = shard.X
    parts = []
    if scipy.sparse.issparse(X):
        inside = slice(X.indptr[first], X.indptr[last])
        lengths = np.diff(X.indptr[first : last + 1]).astype("<i8")
        parts += [lengths, X.indices[inside].astype("<i8"), X.data[inside].astype("<f8")]
    else:
        parts.append(X[first:last].astype(X.dtype.newbyteorder("<")))
    if shard.y is not X:
        parts.append(shard.y[first:last].astype("<f8"))
    parts += [values[first:last].astype("<f8") for _, values in _columns(shard)]
    return tuple(part.tobytes() for part in parts)


def _columns(shard) -> list[tuple[str, np.ndarray]]:
    """Return the columns beside the targets that a shard has, with their names."""
    named = (("weights", shard.weights), ("offsets", shard.offsets))
    return [(name, values) for name, values in named if values is not None]
