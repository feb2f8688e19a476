"""What a family's targets are distributed by: means, and the constants of likelihoods."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.special


@dataclass(frozen=True)
class Distribution:
    """A family's mean, and what its loss leaves out of the likelihood.

    Attributes
    ----------
    mean : callable
        Of a row, as a function of its linear predictor; it rises with it.
    least : callable
        The least loss that a row with this target can have.
    constant : callable
        What the negative log likelihood has besides the loss, of a target.
    effect : str
        What exp(coefficient) is called; empty where it means nothing.
    scaled : bool
        Whether the variance has a scale that is estimated from the residuals.
    """

    mean: Callable[[np.ndarray], np.ndarray]
    least: Callable[[np.ndarray], np.ndarray]
    constant: Callable[[np.ndarray], np.ndarray]
    effect: str = ""
    scaled: bool = False


DISTRIBUTIONS = {
    "logistic": Distribution(scipy.special.expit, np.zeros_like, np.zeros_like, "odds ratio"),
    "least-squares": Distribution(lambda t: t, np.zeros_like, np.zeros_like, scaled=True),
    "poisson": Distribution(
        np.exp, lambda y: y - scipy.special.xlogy(y, y), lambda y: scipy.special.gammaln(y + 1),
        "rate ratio",
    ),
}  # fmt: skip
