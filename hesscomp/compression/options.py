"""What a compression method is told besides its operator."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SketchOptions:
    """How to sketch; every method reads what concerns it.

    Attributes
    ----------
    power : int
        Further multiplications by H after the first.
    seed : int
    probe_count : int
        Fresh Gaussian vectors that measure the error.
    rank : int or None
        Eigenpairs asked for; None where a tolerance was.
    oversample : int
        Columns beyond `rank`.
    test_matrix : str
        "gaussian", "srtt" or "sparse-sign".
    residual_tolerance : float
        An eigenpair is converged where ||H u - w u|| <= residual_tolerance |w_1|.
    block : int or None
        Columns of a Krylov block; None for the method's choice.
    max_columns : int or None
        Most product columns (but for rounding up to whole blocks) that a Krylov method spends on
        a rank, without its probes; None for (2 + power) (rank + oversample), as many as eigh.
    basis : int or None
        Most columns that a Krylov basis holds before it is restarted; None for as many as the
        default of `max_columns`.
    """

    power: int = 1
    seed: int = 0
    probe_count: int = 8
    rank: int | None = None
    oversample: int = 10
    test_matrix: str = "gaussian"
    residual_tolerance: float = 1e-6
    block: int | None = None
    max_columns: int | None = None
    basis: int | None = None

    @property
    def independent(self) -> bool:
        """Whether a sketch is H times independent Gaussian columns: leave-one-out holds then."""
        return self.power == 0 and self.test_matrix == "gaussian"
