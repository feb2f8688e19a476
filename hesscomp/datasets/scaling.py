"""How the columns of a data set were scaled, and how that is undone in coefficients."""

from dataclasses import dataclass, field

import numpy as np
import scipy.sparse


@dataclass(frozen=True)
class Scaling:
    """What was subtracted from the columns of a data set, and what they were then divided by.

    Attributes
    ----------
    means, deviations : (features,) array
        Zeros where columns were not centred; 1 where a column is constant.
    fingerprint : str
        Of the data set as it was.
    """

    means: np.ndarray = field(repr=False)
    deviations: np.ndarray = field(repr=False)
    fingerprint: str

    def matrix(self, intercept: bool) -> scipy.sparse.csr_array:
        """Return T with T z the coefficients of the columns as they were, z those of these columns.

        With an intercept it is the last coefficient: it gives back what the means take away.
        """
        scales = 1 / self.deviations
        if not intercept:
            return scipy.sparse.diags_array(scales).tocsr()
        border = scipy.sparse.csr_array(-(self.means * scales)[None])
        whole = [[scipy.sparse.diags_array(scales), None], [border, np.ones((1, 1))]]
        return scipy.sparse.csr_array(scipy.sparse.block_array(whole))
