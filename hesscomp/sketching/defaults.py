"""What a compression takes where nothing else is asked: known before anything is loaded."""

BLOCKS = 16, 32  # fewest and most columns of a Krylov block
RESIDUAL_TOLERANCE = 1e-6  # an eigenpair is accurate with ||H u - w u|| of at most this times |w_1|


def block_size(sketch: int) -> int:
    """Columns of a Krylov block for rank + oversample = `sketch`: a quarter of it, within 16 to 32.

    Wide enough that products run at the matrix-product rate, no wider: narrow blocks reach higher
    powers of H with the same columns.
    """
    return min(sketch, max(BLOCKS[0], min(sketch // 4, BLOCKS[1])))


def default_method(psd: bool, power: int, *krylov_options: int | None) -> str:
    """ "nystrom" for semidefinite operators, unless more accuracy is asked for; else "krylov".

    That is, more than one power step (the same products give krylov higher powers), or any option
    of krylov.
    """
    accurate = power > 1 or any(option is not None for option in krylov_options)
    return "nystrom" if psd and not accurate else "krylov"
