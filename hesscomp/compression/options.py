"""What a compression method is told besides its operator."""

from dataclasses import dataclass

from hesscomp.errors import InputError
from hesscomp.factors.lowrank import LowRank
from hesscomp.parallel.random import check_seed
from hesscomp.sketching.catalogue import TEST_MATRICES
from hesscomp.sketching.defaults import RESIDUAL_TOLERANCE


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
        a rank, without its probes; None for (2 + power) (rank + oversample), as many as eigh, and
        one (rank + oversample) fewer with `start`.
    basis : int or None
        Most columns that a Krylov basis holds before it is restarted; None for as many as the
        default of `max_columns`.
    start : LowRank or None
        A factor of an operator that is near this one: what a Krylov method starts from.
    """

    power: int = 1
    seed: int = 0
    probe_count: int = 8
    rank: int | None = None
    oversample: int = 10
    test_matrix: str = "gaussian"
    residual_tolerance: float = RESIDUAL_TOLERANCE
    block: int | None = None
    max_columns: int | None = None
    basis: int | None = None
    start: LowRank | None = None

    def validate(self) -> None:
        """Raise InputError for a value out of range."""
        check_seed(self.seed)
        for name, value, least in (
            ("power", self.power, 0),
            ("probe count", self.probe_count, 1),
            ("oversample", self.oversample, 0),
            ("block size", self.block, 1),
            ("most columns", self.max_columns, 1),
            ("largest basis", self.basis, 1),
        ):
            if value is not None and value < least:
                raise InputError(f"{name} must be at least {least}, not {value}")
        if not self.residual_tolerance > 0:
            raise InputError(f"residual tolerance must be positive, not {self.residual_tolerance}")
        if self.test_matrix not in TEST_MATRICES:
            raise InputError(
                f"the test matrix must be one of {', '.join(TEST_MATRICES)}, not {self.test_matrix}"
            )

    @property
    def independent(self) -> bool:
        """Whether a sketch is H times independent Gaussian columns: leave-one-out holds then."""
        return self.power == 0 and self.test_matrix == "gaussian"
