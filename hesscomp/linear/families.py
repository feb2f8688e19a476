"""The families of generalised linear models, all that is known of each in one place.

A family is added by an entry of `FAMILIES`; the problem, the request, the statistics, the file and
predictions follow.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from hesscomp.datasets.targets import CLASSES, SIGNS, VALUES
from hesscomp.errors import InputError

Numbers = Any  # an array of NumPy, or a tensor where a function's first argument is TensorFlow's
USUAL_POWER = 1.5  # of tweedie, where none is named


@dataclass(frozen=True, kw_only=True)
class Family:
    """What targets a family takes, and how their mean follows from linear predictors.

    Attributes
    ----------
    title : str
        The name of the problem.
    targets : str
        What y must hold, as `Dataset.targets` says it.
    mean : callable
        Of rows, as a function of their predictors; of several classes (rows, K) probabilities as a
        function of (rows, K) scores.
    allowed : callable
        Says of an array y which numbers can be targets.
    rule : str
        What they must be, for messages.
    effect : str
        What exp(coefficient) is called; empty where it means nothing.
    dispersed : bool
        Whether there is a dispersion, which is estimated by Pearson's statistic.
    """

    title: str
    targets: str
    mean: Callable[[np.ndarray], np.ndarray]
    allowed: Callable[[np.ndarray], np.ndarray] = np.isfinite
    rule: str = "finite numbers"
    effect: str = ""
    dispersed: bool = False


@dataclass(frozen=True, kw_only=True)
class ScalarFamily(Family):
    """A family with one predictor t a row: what a row loses there, and the density of its target y.

    All losses are convex in t, so that Hessians A^T diag(bend) A are positive semidefinite. A loss
    is the negative log likelihood times the dispersion, up to what y alone decides. `loss`, `slope`
    and `bend` are functions of (m, t, y), with m a namespace of `exp`, `sigmoid`, `softplus` and
    `ones_like` for the kind of array that t and y are.

    Attributes
    ----------
    loss, slope, bend : callable
        The loss and its first and second derivative by t.
    slope_by_target : callable
        The derivative of the slope by y; of a label +1 or -1 by the probability of +1.
    least : callable
        The least loss that a row with this target can have.
    log_density : callable
        Of (y, t, dispersion), for the log likelihood; NaN where it is not known.
    variance : callable
        Of the mean: the target's variance over the dispersion.
    by_mean_deviance : bool
        Whether the likelihood takes the deviance over the rows as dispersion, not the estimate.
    """

    loss: Callable[[Any, Numbers, Numbers], Numbers]
    slope: Callable[[Any, Numbers, Numbers], Numbers]
    bend: Callable[[Any, Numbers, Numbers], Numbers]
    least: Callable[[np.ndarray], np.ndarray] = np.zeros_like
    log_density: Callable[[np.ndarray, np.ndarray, float], np.ndarray]
    variance: Callable[[np.ndarray], np.ndarray] = np.ones_like
    slope_by_target: Callable[[Any, Numbers, Numbers], Numbers] = lambda m, t, y: -m.ones_like(t)
    by_mean_deviance: bool = False


def _tweedie(power: float) -> Family:
    """Return the family with variance mean^power, 1 < power < 2, with the logarithm as link.

    Its targets are sums of a Poisson number of Gamma numbers: zeros, and positive numbers. Its
    density is that of Dunn and Smyth (Statistics and Computing 15, 2005).
    """
    low, high = power - 1, 2 - power

    def log_density(y, t, phi):
        alpha = high / low
        theta, kappa = -np.exp(-low * t) / low, np.exp(high * t) / high
        known = (y * theta - kappa) / phi
        at = np.where(y > 0, y, 1.0)
        x = (low * phi / at) ** -alpha / (high * phi)
        with np.errstate(divide="ignore"):
            series = np.log(scipy.special.wright_bessel(alpha, 0.0, x)) - np.log(at)
        found = known + np.where(y > 0, series, 0.0)
        return np.where(np.isfinite(found), found, np.nan)

    return ScalarFamily(
        title=f"tweedie-regression of power {power:g}",
        targets=VALUES,
        mean=np.exp,
        loss=lambda m, t, y: y * m.exp(-low * t) / low + m.exp(high * t) / high,
        slope=lambda m, t, y: m.exp(high * t) - y * m.exp(-low * t),
        bend=lambda m, t, y: high * m.exp(high * t) + low * y * m.exp(-low * t),
        least=lambda y: y**high / (low * high),
        log_density=log_density,
        variance=lambda mean: mean**power,
        slope_by_target=lambda m, t, y: -m.exp(-low * t),
        allowed=lambda y: y >= 0,
        rule="numbers of at least 0",
        effect="ratio of means",
        dispersed=True,
    )


def _gamma_density(y, t, phi):
    scaled = y * np.exp(-t) / phi
    return np.log(scaled) / phi - scaled - scipy.special.gammaln(1 / phi) - np.log(y)


FAMILIES: dict[str, Family] = {
    "logistic": ScalarFamily(
        title="logistic-regression",
        targets=SIGNS,
        mean=scipy.special.expit,
        loss=lambda m, t, y: m.softplus(-y * t),
        slope=lambda m, t, y: -y * m.sigmoid(-y * t),
        bend=lambda m, t, y: m.sigmoid(t) * m.sigmoid(-t),
        log_density=lambda y, t, phi: scipy.special.log_expit(y * t),
        effect="odds ratio",
    ),
    "softmax": Family(
        title="softmax-regression",
        targets=CLASSES,
        mean=lambda T: scipy.special.softmax(T, axis=-1),
        effect="odds ratio",
    ),
    "least-squares": ScalarFamily(
        title="least-squares",
        targets=VALUES,
        mean=lambda t: t,
        loss=lambda m, t, y: (t - y) ** 2 / 2,
        slope=lambda m, t, y: t - y,
        bend=lambda m, t, y: m.ones_like(t),
        log_density=lambda y, t, phi: -((y - t) ** 2) / (2 * phi) - np.log(2 * np.pi * phi) / 2,
        dispersed=True,
        by_mean_deviance=True,
    ),
    "poisson": ScalarFamily(
        title="poisson-regression",
        targets=VALUES,
        mean=np.exp,
        loss=lambda m, t, y: m.exp(t) - y * t,
        slope=lambda m, t, y: m.exp(t) - y,
        bend=lambda m, t, y: m.exp(t),
        least=lambda y: y - scipy.special.xlogy(y, y),
        log_density=lambda y, t, phi: y * t - np.exp(t) - scipy.special.gammaln(y + 1),
        variance=lambda mean: mean,
        allowed=lambda y: y >= 0,
        rule="counts of at least 0",
        effect="rate ratio",
    ),
    "gamma": ScalarFamily(
        title="gamma-regression",
        targets=VALUES,
        mean=np.exp,
        loss=lambda m, t, y: y * m.exp(-t) + t,
        slope=lambda m, t, y: 1 - y * m.exp(-t),
        bend=lambda m, t, y: y * m.exp(-t),
        least=lambda y: 1 + np.log(y),
        log_density=_gamma_density,
        variance=np.square,
        slope_by_target=lambda m, t, y: -m.exp(-t),
        allowed=lambda y: y > 0,
        rule="numbers above 0",
        effect="ratio of means",
        dispersed=True,
    ),
    "tweedie": _tweedie(USUAL_POWER),
}
NAMES = f"{', '.join(FAMILIES)} (of power {USUAL_POWER:g}) or tweedie:POWER"
ELSEWHERE = {
    "binomial": "logistic", "multinomial": "softmax", "gaussian": "least-squares",
    "normal": "least-squares",
}  # fmt: skip


@functools.cache
def known_family(name: str) -> Family:
    """Return the family of a name, as gamma or tweedie:1.7; InputError if there is none."""
    if name in FAMILIES:
        return FAMILIES[name]
    kind, _, text = name.partition(":")
    try:
        power = float(text) if kind == "tweedie" else 0.0
    except ValueError:
        power = np.nan
    if kind == "tweedie" and not 1 < power < 2:
        raise InputError(
            f"family {name}: the power must be above 1 (poisson) and below 2 (gamma), as in "
            "tweedie:1.7"
        )
    if kind != "tweedie":
        known = f"; that is {ELSEWHERE[name]} here" if name in ELSEWHERE else ""
        raise InputError(f"family must be one of {NAMES}, not {name}{known}")
    return _tweedie(power)
