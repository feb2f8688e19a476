"""Where a factor comes from and what it cost."""

from dataclasses import dataclass

NAN = float("nan")


@dataclass(frozen=True)
class Provenance:
    """What was compressed, how, and at what cost; absent numbers are NaN or -1.

    `ridge` is *not* in the eigenvalues: add it as a shift. Columns, passes, words and seconds are
    those of the compression alone.
    """

    problem: str = ""
    operator: str = ""
    dataset: str = ""
    data_fingerprint: str = ""
    rows: int = -1
    ridge: float = NAN
    method: str = ""
    rank_requested: int = -1
    tolerance_requested: float = NAN
    oversample: int = -1
    power: int = -1
    seed: int = -1
    dtype: str = ""
    layout: str = "replicated"
    ranks: int = 1
    reproducible: bool = False
    columns: int = -1
    passes: int = -1
    words_reduced: int = -1
    seconds: float = NAN
